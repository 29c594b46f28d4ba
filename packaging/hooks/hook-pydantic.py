# Instead of PyInstaller's own: without pydantic 1, the plugin of mypy, and metadata that nobody asks for.
from PyInstaller.utils.hooks import collect_submodules

_LEFT_OUT = ("pydantic.v1", "pydantic.mypy")

hiddenimports = collect_submodules("pydantic", filter=lambda name: not name.startswith(_LEFT_OUT))
