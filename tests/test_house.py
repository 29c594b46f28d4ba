"""The house rules that a tool can check."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shared import ROOT

CODE = sorted([*(ROOT / "fluxen").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in CODE]
TOP_LEVEL = {
    "fluxen", "cli", "tests", "packaging", "docs", "fluxen.example.yaml", "pyproject.toml", "Makefile", "README.md",
    "CONTRIBUTING.md", "LICENSE", "requirements.lock",
}  # fmt: skip


def test_there_is_code_to_check() -> None:
    assert {"fluxen/errors.py", "cli/fluxen_cli/__main__.py"} <= set(NAMES)


def test_top_level() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    if listed.returncode:  # no git here, or an unpacked archive: then everything that lies here counts
        names = {path.name for path in ROOT.iterdir()} - {"build", "dist"}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_packaging_does_not_shadow_the_package_of_that_name() -> None:
    assert not (ROOT / "packaging" / "__init__.py").exists()


@pytest.mark.parametrize("name", NAMES)
def test_module(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text.count("\n") <= 450, "one noun each: what would a reader look for elsewhere?"
    assert Path(name).stem not in ("utils", "helpers", "common", "misc")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "say what it is about"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"line {node.lineno}: global state"
        if isinstance(node, ast.ExceptHandler) and _broad(node.type):
            line = text.splitlines()[node.lineno - 1]
            assert "# noqa: BLE001 - " in line, f"{name}:{node.lineno}: catches everything without saying why"


def _broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_broad(item) for item in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


IMPORT_ALONE = """
import importlib, os, signal, sys, threading, warnings
warnings.simplefilter("error")
cwd, environment, handlers = os.getcwd(), dict(os.environ), [signal.getsignal(n) for n in (2, 13, 15, 17)]
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert threading.active_count() == 1, f"{name} starts a thread"
    assert (os.getcwd(), dict(os.environ)) == (cwd, environment), f"{name} changes the environment"
    assert [signal.getsignal(n) for n in (2, 13, 15, 17)] == handlers, f"{name} handles signals"
    for package in [m for m in sys.modules if m.partition(".")[0] in ("fluxen", "fluxen_cli")]:
        del sys.modules[package]
"""


def test_each_module_can_be_imported_alone(tmp_path: Path) -> None:
    """In any order: no cycle that only works when another module came first, no warning, nothing started or changed."""
    modules = [name.removeprefix("cli/").removesuffix(".py").replace("/", ".") for name in NAMES]
    modules = [name.removesuffix(".__init__") for name in modules]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE, *modules], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_layers() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Layers of the house KEPT" in done.stdout


def test_a_wheel_holds_every_file(tmp_path: Path) -> None:
    """Also the data: what is missing in a wheel is there in an editable install, and nobody notices."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    lying = [*(ROOT / "fluxen").rglob("*"), *(ROOT / "cli" / "fluxen_cli").rglob("*")]
    files = {str(path.relative_to(ROOT)) for path in lying if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {name.removeprefix("cli/") for name in files}
    assert "fluxen/providers/providers.yaml" in packed
