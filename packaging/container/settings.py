"""How this machine reaches package archives, for a build inside a container.

A build in a container starts from nothing: it knows neither the proxy nor the certificate authority nor the package
index that this machine is set up with. They are read from where pip and apt keep them, written as one file for each,
and mounted into the build: the Dockerfile knows nothing of it, and nothing of it gets into the image.

    python3 settings.py FOLDER     writes pip.conf and apt.conf there; prints one --volume per line, for buildah
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ABOUT_THE_INDEX = {
    "cert", "client-cert", "default-timeout", "extra-index-url", "find-links", "index-url", "no-index", "proxy",
    "retries", "timeout", "trusted-host",
}  # fmt: skip
"""Options of pip by which it finds packages. Others (where to install to …) are this machine's own affair."""

FILES = {"cert", "client-cert"}
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
MOUNTED = "/run/host"
"""Where files of this machine are seen inside: nothing that the build installs lies there."""

_SETTING = re.compile(r"(?P<section>[^.\s]+)\.(?P<name>[a-z-]+)='(?P<value>.*)'")
_ABOUT_THE_ARCHIVE = re.compile(r'Acquire::(https?|Check-|Retries|ForceIPv)[^ ]* "[^"]+";')
_FILE = re.compile(r'(?<=")/[^"]+(?=")')


def pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What pip is set up with, by files and PIP_…; the environment wins, as it does for pip."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env=dict(env), capture_output=True, text=True, check=False
    ).stdout
    found = [match for line in listed.splitlines() if (match := _SETTING.fullmatch(line.strip()))]
    found.sort(key=lambda match: match["section"] == ":env:")
    settings = {match["name"]: match["value"] for match in found if match["name"] in ABOUT_THE_INDEX}
    authorities = next((env[name] for name in AUTHORITIES if env.get(name)), None)
    if authorities is not None:
        settings.setdefault("cert", authorities)
    return settings


def apt_settings() -> list[str]:
    """What apt is set up with to reach its archives: proxies, authorities, whether dates are checked."""
    if shutil.which("apt-config") is None:
        return []
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return [line for line in dumped.splitlines() if _ABOUT_THE_ARCHIVE.fullmatch(line)]


def volumes(folder: Path) -> Iterator[str]:
    """Write the two files; what must be mounted where."""
    pip, apt = pip_settings(os.environ), apt_settings()
    for name in FILES & pip.keys():
        inside = f"{MOUNTED}/{name}.pem"
        yield f"{pip[name]}:{inside}:ro"
        pip[name] = inside
    for place in (word for name in ("find-links",) for word in pip.get(name, "").split()):
        if Path(place).is_dir():
            yield f"{place}:{place}:ro"
    for number, line in enumerate(apt):
        if (match := _FILE.search(line)) and Path(match[0]).is_file():
            inside = f"{MOUNTED}/apt-{number}.pem"
            yield f"{match[0]}:{inside}:ro"
            apt[number] = line.replace(match[0], inside)
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in pip.items()))
    (folder / "apt.conf").write_text("".join(f"{line}\n" for line in apt))
    yield f"{folder / 'pip.conf'}:/etc/pip.conf:ro"
    yield f"{folder / 'apt.conf'}:/etc/apt/apt.conf.d/99host:ro"


def main() -> None:
    folder = Path(sys.argv[1])
    for volume in volumes(folder):
        print(f"--volume={volume}")


if __name__ == "__main__":
    main()
