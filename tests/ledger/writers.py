"""Real writers, each a process of its own, that do as they are told: begin, end, rotate, die.

They are forked by one small process that has neither threads nor duckdb, so one costs a millisecond or two.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from ledger.kill import strike
from ledger.samples import begin, end

from fluxen.ledger.journal import Journal
from fluxen.ledger.record import Begin

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Writers:
    """Starts writers and speaks with them; one question, one answer."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, __file__, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
        )

    def start(self, name: str, die: str = "") -> None:
        """A new writer; `die`: a checkpoint of its journal and how many times it survives it, `name:count`."""
        assert self._ask("start", name, die) == "started"

    def begin(self, name: str) -> str:
        """The id of a new request."""
        return str(self._ask("begin", name))

    def end(self, name: str, request: str) -> None:
        assert self._ask("end", name, request) is True

    def rotate(self, name: str) -> bool:
        """False when the writer died of it."""
        return self._ask("rotate", name) is True

    def kill(self, name: str) -> None:
        assert self._ask("kill", name) == "dead"

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, *words: str) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def obey(journal: Journal, commands: IO[str], answers: IO[str]) -> None:
    """A writer's life."""
    running: dict[str, Begin] = {}
    for line in commands:
        what, *arguments = json.loads(line)
        answer: object = True
        if what == "begin":
            start = begin()
            assert journal.begin(start)
            running[start.id] = start
            answer = start.id
        elif what == "end":
            answer = journal.end(end(running.pop(arguments[0])))
        else:
            journal.tick()
        print(json.dumps(answer), file=answers, flush=True)


def serve(folder: Path) -> None:
    children: dict[str, tuple[int, IO[str], IO[str]]] = {}
    for line in sys.stdin:
        what, name, *arguments = json.loads(line)
        if what == "start":
            to_read, to_write = os.pipe()
            from_read, from_write = os.pipe()
            child = os.fork()
            if child == 0:
                for _, commands, answers in children.values():
                    commands.close()
                    answers.close()
                os.close(to_write)
                os.close(from_read)
                journal = Journal(folder, name, 0, segment_seconds=0, checkpoint=strike(arguments[0], signal.SIGKILL))
                obey(journal, os.fdopen(to_read), os.fdopen(from_write, "w"))
                os._exit(0)
            os.close(to_read)
            os.close(from_write)
            children[name] = (child, os.fdopen(to_write, "w"), os.fdopen(from_read))
            # Its journal is open when it answers; a rotation without news does nothing.
            reply: object = "started" if tell(children[name], "rotate") else "failed"
        elif what == "kill":
            child, commands, answers = children.pop(name)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            answers.close()
            commands.close()
            reply = "dead"
        else:
            reply = tell(children[name], what, *arguments)
            if reply is None:
                os.waitpid(children.pop(name)[0], 0)
        print(json.dumps(reply), flush=True)
    for child, *_ in children.values():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def tell(child: tuple[int, IO[str], IO[str]], *words: str) -> object:
    """What the child answers; None when it died instead."""
    _, commands, answers = child
    print(json.dumps(words), file=commands, flush=True)
    answer = answers.readline()
    return json.loads(answer) if answer else None


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
