"""`make fuzz`: every target for a while, each input judged. Prints what was found, and ends with 1 if there is any.

    PYTHONPATH=tests python -m fuzz [--seconds 600] [--seed N] [--only heads,yaml]

The time is shared by the targets. Without --seed each run is another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fuzz.engine import fuzz
from fuzz.targets import TARGETS


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--only", default=",".join(TARGETS))
    chosen = options.parse_args()
    seed = time.time_ns() if chosen.seed is None else chosen.seed
    names = chosen.only.split(",")
    print(f"seed {seed}, {chosen.seconds / len(names):.0f} s for each of {', '.join(names)}", flush=True)
    found = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fluxen-fuzz-") as folder, TARGETS[name](Path(folder)) as target:
            outcome = fuzz(target, seed, seconds=chosen.seconds / len(names))
        print(outcome, flush=True)
        for finding in outcome.findings:
            print(finding, flush=True)
        found += len(outcome.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
