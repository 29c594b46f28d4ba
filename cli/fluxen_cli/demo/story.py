"""The demo from its first line to its last, and how it cleans up after itself whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxen import __version__
from fluxen.errors import FluxenError
from fluxen_cli.demo import cast
from fluxen_cli.demo.provider import Provider
from fluxen_cli.demo.screen import Screen
from fluxen_cli.demo.traffic import Crowd, Seen
from fluxen_cli.private import PrivateGateway

if TYPE_CHECKING:
    from fluxen.config.load import Loaded

_EACH = 110
"""Requests of every team."""
_CLIENTS = 8
"""… and how many of its programs send them at a time."""
_KILL_AT = 0.6
"""After this part of the traffic the worker is killed."""
_PATIENCE = 20.0

_WIDE = 113
"""Columns that the costs by team and model take."""
_BY_TEAM_AND_MODEL = ("fluxen report costs --by team,model",)
_ONE_BY_ONE = (
    "fluxen report costs --by team",
    'fluxen sql "select model, sum(cost_usd) from requests\n    where status = 200 group by 1 order by 2"',
)
_ANYWHERE = (
    'fluxen sql "select team, median(ttfb_ms) from requests group by 1 order by 2"',
    'fluxen sql "select error, count(*) from requests group by 1 order by 2 desc"',
    "fluxen ledger verify",
)


_QUIET = {"FLUXEN_LOG": "warning,console,requests=off"}
"""The environment of the demo's gateway: its log is shown to a person."""
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tell(keep: Path | None) -> None:
    """The whole show. keep: a folder to be made, in which configuration and ledger stay."""
    screen, way_out = Screen(), Exit()
    with _stage(keep, way_out) as folder:
        _play(screen, folder, way_out)
    _next(screen, keep)


class Exit:
    """The way out for who presses Ctrl-C or sends SIGTERM: once, and then undisturbed, or something would be left
    behind. (A one-file executable gets each Ctrl-C twice.)"""

    def __init__(self) -> None:
        self.code = 0
        self._cancel: Callable[[], object] | None = None
        for number in _ENDS:
            signal.signal(number, self._asked)

    def close(self) -> None:
        """From now on nobody is listened to."""
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)

    def run(self, show: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """asyncio.run, which takes it ill when something raises SystemExit inside it: the show is cancelled instead."""

        async def cancellable() -> None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if not self.code:
                await show()

        self._cancel = lambda: None
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(cancellable())
        self._cancel = None
        if self.code:
            raise SystemExit(self.code)

    def _asked(self, number: int, _frame: object) -> None:
        self.close()
        self.code = 128 + number
        if self._cancel is None:
            raise SystemExit(self.code)
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._cancel()


@contextlib.contextmanager
def _stage(keep: Path | None, way_out: Exit) -> Iterator[Path]:
    """The folder of the show. It stays only when it was asked for and the show came to its end."""
    folder = _made(keep) if keep else Path(tempfile.mkdtemp(prefix="fluxen-demo-"))
    stays = False
    try:
        yield folder
        stays = keep is not None
    finally:
        way_out.close()
        if not stays:
            shutil.rmtree(folder)


def _made(folder: Path) -> Path:
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise FluxenError(f"{folder} exists already", hint="name a folder that does not exist yet") from None
    return folder


def _play(screen: Screen, folder: Path, way_out: Exit) -> None:
    from fluxen.analyzer.prices import PriceBook

    provider = Provider()
    file = folder / "fluxen.yaml"
    file.write_text(cast.configuration(provider.port))
    screen.heading(f"Fluxen {__version__}: a gateway between three teams and four providers")
    screen.text(
        "Providers, prompts and token counts are invented: a script answers, on this machine, and nothing leaves it. "
        f"The gateway and its ledger are real, and so are the prices ({PriceBook.shipped().version})."
    )
    screen.command(f"fluxen serve --config {shlex.quote(str(file))}")
    with (folder / "gateway.log").open("wb") as log:
        gateway = PrivateGateway(lambda: (_load(file), None), _QUIET, says=log.fileno())
    try:
        screen.lines([f"Fluxen serves on {gateway.ready.url}"])
        seen = _traffic(screen, folder, provider, gateway.ready.url, way_out)
        _reports(screen, folder, seen)
    finally:
        way_out.close()
        gateway.stop()


def _event(line: str) -> str:
    """A line of the gateway's log without its time and who says it: so it fits."""
    return line.partition(" ")[2].rpartition("  (")[0] or line


def _load(file: Path) -> Loaded:
    from fluxen.config.load import load_config

    return load_config(file, {})


# --- traffic, and what happens to it


def _traffic(screen: Screen, folder: Path, provider: Provider, url: str, way_out: Exit) -> Seen:
    planned = cast.plan(_EACH)
    whole = sum(map(len, planned.values()))
    screen.heading(f"{whole} requests: streams, cached and reasoning tokens, now and then a 429 or 500")
    killed: list[int] = []
    with screen.progress({name: len(requests) for name, requests in planned.items()}) as advance:

        def told(request: cast.Request) -> None:
            advance(request.team.name, request.model.name)
            if not killed and len(crowd.seen.answered) >= whole * _KILL_AT:
                killed.append(_worker(folder))
                os.kill(killed[0], signal.SIGKILL)

        crowd = Crowd(int(url.rpartition(":")[2]), planned, told)
        started = time.monotonic()
        way_out.run(lambda: _talk(provider, crowd))
    seconds = time.monotonic() - started
    screen.text(f"All answered in {seconds:.1f} s, {whole / seconds:.0f} a second.")
    screen.heading(f"Meanwhile: kill -9 {killed[0]}, the only worker, with requests in flight")
    screen.lines([_event(line) for line in (folder / "gateway.log").read_text().splitlines()])
    screen.text(
        f"{len(crowd.seen.cut)} requests broke off and were sent again, as any SDK does. New connections waited for "
        "the next worker; none was refused."
    )
    return crowd.seen


async def _talk(provider: Provider, crowd: Crowd) -> None:
    await provider.start()
    try:
        await crowd.talk(_CLIENTS)
    finally:
        provider.close()


def _worker(folder: Path) -> int:
    """The PID of the worker that writes the newest journal."""
    newest = max((folder / "data" / "ledger" / "journal").glob("*.jnl"))
    with newest.open("rb") as segment:
        return int(json.loads(segment.readline())["pid"])


# --- reports


def _reports(screen: Screen, folder: Path, seen: Seen) -> None:
    screen.heading("What it cost: the gateway still serves, reports read its ledger beside it")
    data = folder / "data"
    for name in [name for name in os.environ if name.startswith("FLUXEN_")]:
        del os.environ[name]
    os.environ["FLUXEN_DATA_DIR"] = str(data)
    screen.command(f"export FLUXEN_DATA_DIR={shlex.quote(str(data))}")
    wide = not screen.live or shutil.get_terminal_size().columns >= _WIDE
    for line in (*(_BY_TEAM_AND_MODEL if wide else _ONE_BY_ONE), *_ANYWHERE):
        screen.command(line)
        _type(line)
    screen.heading("Was anything lost?")
    screen.good(_accounted(data, seen))


def _type(line: str) -> None:
    """Run a command line of ours, as it is shown."""
    from fluxen_cli.app import build

    build()(args=shlex.split(line)[1:], prog_name="fluxen", standalone_mode=False)


def _accounted(data: Path, seen: Seen) -> str:
    """What the comparison of clients and ledger says. FluxenError when they don't agree."""
    from fluxen.config.paths import ledger_folder
    from fluxen.ledger.reader import Reader

    found = Reader(ledger_folder(data)).query("SELECT id::VARCHAR, error IS NOT DISTINCT FROM 'lost' FROM requests")
    lost = {str(id): bool(is_lost) for id, is_lost in found.rows}
    missing = (seen.answered | {id for id in seen.cut if id}) - lost.keys()
    broken = len(lost) - len(seen.answered)
    if missing or len(lost) != len(found.rows) or broken > len(seen.cut):
        raise FluxenError(
            f"the clients saw {len(seen.answered)} answers and {len(seen.cut)} broken ones, but the ledger has "
            f"{len(found.rows)} rows, {len(missing)} missing",
            hint="this must not be: please report it",
        )
    said = (
        f"{len(seen.answered)} answers and {broken} broken requests at the clients, {len(lost)} rows in the ledger: "
        f"none missing, none twice. {sum(lost.values())} are marked lost; what they cost is unknown, and that is said."
    )
    if never := len(seen.cut) - broken:
        said += f" {never} more broke off before the gateway had read them."
    return said


def _next(screen: Screen, keep: Path | None) -> None:
    screen.heading("Your turn")
    screen.lines(
        (
            "fluxen init                     # a configuration, and a first key",
            "fluxen serve                    # says what to set for each SDK, such as",
            "export OPENAI_BASE_URL=http://127.0.0.1:8080/v1",
            "fluxen run -- python app.py     # or one program alone, and its bill",
        )
    )
    if keep:
        file = shlex.quote(str(keep.absolute() / "fluxen.yaml"))
        screen.text("\nThis demo's configuration and ledger are kept. Ask them more:")
        screen.lines((f"fluxen report costs --by model,stream --config {file}", f"fluxen validate {file}"))
