"""The terms of everything inside a frozen folder: python packaging/notices.py --work DIR --out FILE

DIR is the scratch folder of freeze.py. To be run by the Python that ran freeze.py, on the Debian that it ran on. For
the container image; packaging/build.py does the same for a release.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

from release import inventory, licences
from release.chroot import Chroot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    packages = Path(sysconfig.get_path("purelib"))
    parts = inventory.take(chosen.work.absolute(), Chroot(Path("/")), packages, None)
    chosen.out.write_bytes(licences.write(parts))
    print(f"{chosen.out}: {len(parts)} parts")


if __name__ == "__main__":
    main()
