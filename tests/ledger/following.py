"""A program that follows a ledger and writes down what it is told, one line a request:

    python tests/ledger/following.py FOLDER UNTIL

Each line is [begin or end, node, number, error]. It ends when the file UNTIL exists and no writer lives any more.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from fluxen.ledger.follow import Began, Ended, Follower


def main(folder: Path, until: Path) -> None:
    follower = Follower(folder, begins=True)
    while True:
        last = until.exists()
        for event in follower.poll():
            if isinstance(event, Ended):
                print(json.dumps(["end", event.node, event.record.request_bytes, event.record.error]))
            elif isinstance(event, Began):
                print(json.dumps(["begin", event.node, event.record.request_bytes, None]))
        sys.stdout.flush()
        if last and not follower.live:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
