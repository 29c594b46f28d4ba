"""How far estimated tokens are from reported ones, by family of models: python tests/bench/estimates.py [--worst N]

On the recorded exchanges (tests/shared.py says where they lie). Prints the table of docs/estimates.md: of inputs of
plain text, of inputs with tools or a schema, and of outputs, the number of distinct exchanges, the median error, the
95th percentile, and the half band that is stated for them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="name the N worst of each")
    parser.add_argument("--family", help="only this one")
    chosen = parser.parse_args()
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder has an analyzer.py, too
    from analyzer.estimating import grouped, measure, table
    from analyzer.recorded import Recorded, lines
    from shared import require_shared

    names = ("dev.jsonl.gz", "expected_dev.jsonl.gz")
    pairs = zip(*(lines(require_shared("traffic", name)) for name in names), strict=True)
    groups = grouped(measure(Recorded(*pair) for pair in pairs))
    for (family, kind), line in table(groups):
        if chosen.family not in (None, family):
            continue
        print(line)
        ranked = sorted(groups[family, kind], key=lambda one: -one.error_of(kind))
        for one in ranked[: chosen.worst]:
            guess, real = (one.estimate.output, one.output) if kind == "output" else (one.estimate.input, one.input)
            print(f"    {one.error_of(kind):.2f}: {guess} for {real}  {one.recorded.id[-70:]}")


if __name__ == "__main__":
    main()
