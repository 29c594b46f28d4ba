# Instead of PyInstaller's own: without Spark's API and the pages that draw a query's plan.
from PyInstaller.utils.hooks import collect_submodules, copy_metadata

_LEFT_OUT = ("duckdb.experimental", "duckdb.query_graph")

hiddenimports = collect_submodules("duckdb", filter=lambda name: not name.startswith(_LEFT_OUT))
datas = copy_metadata("duckdb")
