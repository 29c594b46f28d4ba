"""A folder that holds another Debian, and commands run in it. Root is all it takes; nothing stays mounted.

pip in there works like pip out here: the machine's settings of pip, its authorities and proxies go along.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INSIDE = Path("/etc/fluxen-build")  # what is copied in from the machine
PASSED = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Chroot:
    root: Path  # "/": this machine itself

    def run(
        self, *command: str | Path, env: Mapping[str, str] | None = None, capture: bool = False, cwd: str = "/"
    ) -> str:
        """Run a command with a clean environment; its output when captured."""
        inside = self.root != Path("/")
        path = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" if inside else os.environ["PATH"]
        clean = {"PATH": path, "HOME": "/root" if inside else str(Path.home()), "LC_ALL": "C.UTF-8"}
        clean |= {name: os.environ[name] for name in PASSED if name in os.environ}
        enter = [*_with_proc(), str(self.root)] if inside else []
        done = subprocess.run(
            [*enter, "/bin/sh", "-c", 'cd "$0" && exec "$@"', cwd, *map(str, command)],
            env=clean | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else None,
            text=True,
            check=True,
        )
        return done.stdout or ""

    def at(self, inside: str | Path) -> Path:
        """The path out here of one in there."""
        return self.root / Path(inside).relative_to("/")

    def copy_network(self) -> None:
        """Names are found in there as out here."""
        for name in ("/etc/resolv.conf", "/etc/hosts"):
            if Path(name).exists():
                shutil.copyfile(name, self.at(name))

    def pip_environment(self) -> dict[str, str]:
        """Environment with which pip in there does what it does out here; files and folders it names are copied in."""
        settings = pip_settings(os.environ)
        for name in ("PIP_CERT", "PIP_CLIENT_CERT"):
            if (path := settings.get(name)) and Path(path).is_file():
                settings[name] = str(self._copy_in(Path(path), name.lower()))
        if "PIP_CERT" not in settings:
            for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
                if (path := os.environ.get(name)) and Path(path).is_file():
                    settings["PIP_CERT"] = str(self._copy_in(Path(path), "authorities"))
        links = [
            str(self._copy_in(Path(link), f"links{number}")) if Path(link).is_dir() else link
            for number, link in enumerate(settings.pop("PIP_FIND_LINKS", "").split())
        ]
        return settings | ({"PIP_FIND_LINKS": " ".join(links)} if links else {})

    def _copy_in(self, path: Path, name: str) -> Path:
        target = self.at(INSIDE / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, target)
        return INSIDE / name


@cache
def _with_proc() -> tuple[str, ...]:
    """`chroot`, with /proc in there for as long as the command runs, where mounts may be made."""
    mounts = ("unshare", "--mount", "/bin/sh", "-c", 'mount --bind /proc "$0/proc" && exec chroot "$0" "$@"')
    tried = subprocess.run([*mounts[:2], "mount", "--bind", "/proc", "/proc"], capture_output=True, check=False)
    return mounts if tried.returncode == 0 else ("chroot",)


def pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """The machine's settings of pip as environment variables: its configuration files, and what is in `env`."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in ("global", "install", "download") and value:
            settings["PIP_" + name.upper().replace("-", "_")] = " ".join(str(ast.literal_eval(value)).split())
    return settings | {name: value for name, value in env.items() if name.startswith("PIP_")}


def missing_tools(tools: Sequence[str]) -> list[str]:
    """Why a chroot can't be made here; nothing when it can."""
    lacking = [f"{tool} is not installed" for tool in tools if shutil.which(tool) is None]
    return lacking if os.geteuid() == 0 else ["not root", *lacking]
