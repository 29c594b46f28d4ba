"""A gateway of a command's own: a forked child on a port of its own, which ends with the command however that ends.

The child has a session of its own, so that Ctrl-C on the terminal is not for it, and neither reads the terminal nor
(unless asked) writes to it. What keeps it from starting comes back through a pipe and is raised here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from fluxen.errors import ConfigError, FluxenError

if TYPE_CHECKING:
    from fluxen.config.load import Loaded
    from fluxen.gateway.snapshot import Snapshot
    from fluxen.keys.client import ClientKey

    Prepare = Callable[[], tuple[Loaded, ClientKey | None]]
    Announce = Callable[[Snapshot, str, int], None]

_PATIENCE = 60.0
"""Seconds after SIGTERM until a gateway is killed: longer than its own limits for what it does at its end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What the command should know of its gateway. keys: per dialect it speaks, whether it has a provider's key."""

    url: str
    data_dir: str
    keys: Mapping[str, bool]


class PrivateGateway:
    """Serves from the moment it is made until `stop`."""

    def __init__(
        self,
        prepare: Prepare,
        env: Mapping[str, str],
        *,
        announce: Announce | None = None,
        says: int | None = None,
    ) -> None:
        """prepare, called in the child, makes the configuration and says who every caller is (None: as configured).
        announce, if any, is called there when it serves. says: the descriptor that what it prints goes to.

        Raises what `fluxen serve` would have ended with.
        """
        told, tell = os.pipe()
        parent = os.getpid()
        self.pid = fork(lambda: _serve(prepare, env, announce, parent, tell), says)
        os.close(tell)
        with ExitStack() as stack:
            stack.callback(self.stop)
            with os.fdopen(told) as pipe:  # a line, not all: its workers hold the pipe open, too
                self.ready = _ready(json.loads(pipe.readline() or "{}"))
            stack.pop_all()  # it serves: from here on the caller stops it

    def stop(self) -> None:
        """Have it finish what runs, and write it down; returns when it has ended."""
        end(self.pid, _PATIENCE)
        self.pid = 0


def fork(body: Callable[[], None], says: int | None) -> int:
    """A child with a session of its own that runs `body` and ends; its PID. It reads nothing, and what it prints goes
    to the descriptor `says`, or nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Ctrl-C may come now: it waits until the two are apart, or the child would run the parent's way out.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid == 0:
        _live(body, says, before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def end(pid: int, patience: float) -> None:
    """Tell a child to end, and wait until it has; kill it when it takes longer than `patience` seconds."""
    if not pid:
        return
    deadline = time.monotonic() + patience
    try:
        os.kill(pid, signal.SIGTERM)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    except (ChildProcessError, ProcessLookupError):
        return  # it had ended by itself


def _live(body: Callable[[], None], says: int | None, mask: set[int | signal.Signals]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        for descriptor in (1, 2):
            os.dup2(nowhere if says is None else says, descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        body()
        code = 0
    except BaseException:  # noqa: BLE001 - the traceback is the message, and a fork must never return
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _serve(prepare: Prepare, env: Mapping[str, str], announce: Announce | None, parent: int, tell: int) -> None:
    """The body of the gateway's process."""

    def started(snapshot: Snapshot, host: str, port: int) -> None:
        keys: dict[str, bool] = {}
        for upstream in snapshot.upstreams:
            name = upstream.dialect.name
            keys[name] = keys.get(name, False) or bool(upstream.credentials)
        _tell(tell, {"ready": asdict(Ready(f"http://{host}:{port}", str(snapshot.config.data_dir), keys))})
        if announce is not None:
            announce(snapshot, host, port)

    try:
        from fluxen.gateway.server import serve

        loaded, everyone = prepare()
        serve(_quiet(loaded), env, started, everyone=everyone, parent=parent)
    except FluxenError as error:
        problems = error.problems if isinstance(error, ConfigError) else None
        _tell(tell, {"message": error.message, "hint": error.hint, "problems": problems, "code": error.exit_code})
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _tell(tell, {"message": f"{error.strerror or error}{where}"})
    except Exception:  # noqa: BLE001 - a bug must be seen, and nobody sees what this process prints
        _tell(tell, {"bug": traceback.format_exc()})


def _quiet(loaded: Loaded) -> Loaded:
    """The same, but without a line for each request (the terminal is the command's), and the others for a person."""
    from dataclasses import replace

    log = loaded.config.log.model_copy(update={"requests": False, "format": "console"})
    return replace(loaded, config=loaded.config.model_copy(update={"log": log}))


def _tell(pipe: int, answer: Mapping[str, object]) -> None:
    os.write(pipe, json.dumps(answer).encode() + b"\n")


def _ready(answer: Mapping[str, Any]) -> Ready:
    """What the child said; what it failed with is raised here."""
    if "ready" in answer:
        return Ready(**answer["ready"])
    if "bug" in answer:
        raise RuntimeError(answer["bug"])
    message = answer.get("message", "the gateway ended before it served")
    problems, hint = answer.get("problems"), answer.get("hint")
    error = FluxenError(message, hint) if problems is None else ConfigError(message, tuple(problems), hint)
    error.exit_code = answer.get("code", FluxenError.exit_code)
    raise error
