"""Freeze the installed Fluxen: python packaging/freeze.py --out DIR --work DIR

Makes DIR/fluxen, the executable in one file, and DIR/fluxen-folder/, the same as a folder (fluxen, _internal/). To be
run by the Python of an environment that holds packaging/requirements.lock and Fluxen's wheel; needs no network, but
binutils (strip, objcopy). The same environment gives the same bytes, wherever it and the folders lie.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

SPEC = Path(__file__).with_name("fluxen.spec")


def check() -> str | None:
    """What is missing here, if anything is."""
    for tool in ("strip", "objcopy"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: it is part of binutils"
    for name in ("pyinstaller", "fluxen"):
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return f"{name} is not installed for {sys.executable}"
    if '"editable": true' in (found.read_text("direct_url.json") or ""):
        return "fluxen is installed as editable: freeze what is shipped, its wheel"
    return None


def freeze(out: Path, work: Path) -> None:
    """Run PyInstaller with all that it works with below `work`, and put the two forms into `out`."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYINSTALLER"))}
    env |= {"PYTHONHASHSEED": "0", "PYINSTALLER_CONFIG_DIR": str(work / "cache"), "LC_ALL": "C.UTF-8"}
    env.setdefault("SOURCE_DATE_EPOCH", "1577836800")
    made = work / "dist"
    places = ["--distpath", str(made), "--workpath", str(work / "build")]
    command = [sys.executable, "-P", "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", *places, str(SPEC)]
    subprocess.run(command, env=env, cwd=work, check=True)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("fluxen", "fluxen-folder"):
        _same_modes(made / name)
        _replace(made / name, out / name)


def _same_modes(made: Path) -> None:
    """Whatever the umask was when the environment was installed."""
    for path in (made, *made.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _replace(made: Path, target: Path) -> None:
    """A folder is taken away as a whole: nothing of an older one stays in it."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    shutil.move(made, target)


def try_out(binary: Path) -> None:
    """Have it import and try all there is in it, with nothing of this environment to help."""
    subprocess.run([binary, "self-test"], env={"LC_ALL": "C.UTF-8"}, cwd="/", stdout=subprocess.PIPE, check=True)


def size(made: Path) -> int:
    return sum(path.stat().st_size for path in (made, *made.rglob("*")) if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the two forms go")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="scratch folder, emptied first")
    chosen = parser.parse_args()
    missing = check()
    if missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    out, work = chosen.out.absolute(), chosen.work.absolute()
    try:
        freeze(out, work)
        for binary in (out / "fluxen", out / "fluxen-folder" / "fluxen"):
            try_out(binary)
    except subprocess.CalledProcessError as error:
        print((error.stdout or b"").decode(errors="replace"), f"error: {error}", sep="", file=sys.stderr)
        return 1
    for name in ("fluxen", "fluxen-folder"):
        print(f"{out / name}: {size(out / name) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
