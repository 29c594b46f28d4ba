"""The calls of `fluxen doctor`: each upstream is asked for its list of models, with Fluxen's key, straight from here.

That costs nothing, and it is the same host, port, certificates and key as for a client's request. All are asked at
once, each in a thread of its own that nobody waits for longer than until the deadline: a name server that says nothing
can't be given a time limit otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final

from fluxen import __version__
from fluxen.errors import FluxenError
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.credentials import Credential
from fluxen.gateway.routes import Upstream
from fluxen.gateway.snapshot import Snapshot
from fluxen.providers.gemini import refuses_key
from fluxen_cli.checks import Finding, of_error
from fluxen_cli.first import ANTHROPIC_VERSION

SECONDS: Final = 5.0
"""From the first call to the last answer that counts."""
_BODY: Final = 4096  # bytes of an answer that are looked at
_LATE, _WRONG = 5.0, 60.0  # seconds between two clocks


@dataclass(frozen=True, slots=True)
class Reply:
    """status: None if there was no answer, then `trouble` says why. ahead: their clock less ours, seconds."""

    status: int | None
    seconds: float = 0.0
    ahead: float | None = None
    body: bytes = b""
    trouble: str = ""


class Calls:
    """All calls at once; they run while other checks do."""

    def __init__(self, snapshot: Snapshot, authorities: Authorities) -> None:
        self._open = snapshot.open_mode
        self._written = snapshot.config.upstreams.by_name
        self._upstreams: Sequence[Upstream] = [one for one in snapshot.upstreams if self._counts(one)]
        self._replies: dict[str, Reply] = {}
        self._unusable: list[Finding] = []
        self._deadline = time.monotonic() + SECONDS
        self._threads: list[threading.Thread] = []
        for upstream in self._upstreams:
            for credential in upstream.credentials or (None,):
                try:
                    connection = connect(upstream, authorities)
                except FluxenError as error:
                    self._unusable.append(of_error(_name(upstream, None), error))
                    break
                thread = threading.Thread(target=self._ask, args=(upstream, connection, credential), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _counts(self, upstream: Upstream) -> bool:
        """With client keys, providers that nobody named and that have no key are no concern of anybody's."""
        return self._open or bool(upstream.credentials) or upstream.name in self._written

    def _ask(self, upstream: Upstream, connection: HTTPConnection, credential: Credential | None) -> None:
        self._replies[_name(upstream, credential)] = try_key(upstream, connection, credential)

    def findings(self) -> Iterator[Finding]:
        """One for each upstream, and what their clocks say of ours. Waits for them until the deadline."""
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        yield from self._unusable
        unusable = {finding.check for finding in self._unusable}
        replies: dict[str, Reply] = {}
        late = Reply(None, trouble=f"no answer within {SECONDS:g} s")
        for upstream in self._upstreams:
            if _name(upstream, None) not in unusable:
                for credential in upstream.credentials or (None,):
                    name = _name(upstream, credential)
                    reply = replies[upstream.name] = self._replies.get(name, late)
                    yield _verdict(upstream, credential, reply, self._open)
        if not any(upstream.credentials for upstream in self._upstreams) and not self._open:
            hint = "set OPENAI_API_KEY, ANTHROPIC_API_KEY … where fluxen serve runs, or api_key of an upstream"
            yield Finding("upstreams", "warn", "Fluxen has no key of any provider", hint)
        yield clock(replies)


def _name(upstream: Upstream, credential: Credential | None) -> str:
    """What a check is called: of several keys each is one."""
    several = credential is not None and len(upstream.credentials) > 1
    return f"upstream {upstream.name}{f' ({credential.name})' if credential is not None and several else ''}"


def connect(upstream: Upstream, authorities: Authorities) -> HTTPConnection:
    origin = upstream.origin
    if origin.scheme == "http":
        return HTTPConnection(origin.host, origin.port, timeout=SECONDS)
    context = authorities.context(origin.ca_file)
    return HTTPSConnection(origin.host, origin.port, timeout=SECONDS, context=context)


def try_key(upstream: Upstream, connection: HTTPConnection, credential: Credential | None) -> Reply:
    """One GET of the list of models with this key. Whatever goes wrong with it is a reply."""
    headers = {"Host": upstream.host.decode("ascii"), "User-Agent": f"fluxen-doctor/{__version__}"}
    version = b"/v1"
    if upstream.dialect.name == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
    elif upstream.dialect.name == "gemini":
        version = upstream.version
    if credential is not None:
        headers[upstream.credential_header.decode("ascii")] = credential.value.decode("latin-1")
    path = upstream.path(version + b"/models", unified=True).decode("ascii")
    began, clock_then = time.monotonic(), time.time()
    try:
        connection.request("GET", path, headers={**headers, "Accept-Encoding": "identity", "Connection": "close"})
        answer = connection.getresponse()
        seconds = time.monotonic() - began
        body = answer.read(_BODY) if answer.status == 400 else b""
        return Reply(answer.status, seconds, _ahead(answer, clock_then + seconds / 2), body)
    except TimeoutError:
        return Reply(None, trouble=f"no answer within {SECONDS:g} s")
    except UnicodeError:
        return Reply(None, trouble="its host is no host name")
    except OSError as error:  # a refused connection, a name nobody knows, a certificate nobody vouches for
        return Reply(None, trouble=str(getattr(error, "verify_message", None) or error.strerror or error))
    except HTTPException:
        return Reply(None, trouble="it does not answer in HTTP")
    finally:
        connection.close()


def _ahead(answer: HTTPResponse, ours: float) -> float | None:
    """How far their clock is ahead of ours; None where they don't tell, or a cache between tells its own time."""
    said = answer.getheader("Date")
    if said is None or answer.getheader("Age") is not None:
        return None
    try:
        return parsedate_to_datetime(said).timestamp() + 0.5 - ours  # whole seconds, cut
    except (ValueError, TypeError, OverflowError):
        return None


def refuses(reply: Reply) -> bool:
    """Whether it is the key that the provider does not take."""
    return reply.status in (401, 403) or (reply.status == 400 and refuses_key(reply.body))


def _verdict(upstream: Upstream, credential: Credential | None, reply: Reply, open_mode: bool) -> Finding:
    check = _name(upstream, credential)
    target = f"{upstream.origin.scheme}://{upstream.host.decode('ascii')}"
    took = f"{reply.seconds * 1000:.0f} ms"
    key = None if credential is None else credential.name
    whose = "its key" if key is None or key == upstream.name else f"the key {key}"
    status = reply.status
    if status is None:
        hint = "check target_url, network, name server and ca_file"
        return Finding(check, "fail", f"{target} can't be reached: {reply.trouble}", hint)
    refused = refuses(reply)
    if credential is None:
        if 200 <= status < 300:
            return Finding(check, "ok", f"{target} answers without a key ({took})")
        if refused and open_mode:
            return Finding(check, "ok", f"{target} answers ({took}) and wants a key: clients send their own")
        if refused:
            hint = f"set upstreams.{upstream.name}.api_key, or its variable where fluxen serve runs"
            return Finding(check, "fail", f"{target} wants a key ({status}), and Fluxen has none", hint)
    elif 200 <= status < 300:
        return Finding(check, "ok", f"{target} accepts {whose} ({took})")
    elif refused:
        return Finding(check, "fail", f"{target} refuses {whose} ({status})", "is it the right one, and still valid?")
    if status == 429:
        return Finding(
            check, "warn", f"{target} answers 429: {whose} is over a limit", "look at the provider's console"
        )
    if status in (404, 405, 501):
        return Finding(check, "warn", f"{target} has no list of models ({status}): {whose} could not be tried")
    if 300 <= status < 400:
        return Finding(check, "fail", f"{target} redirects ({status})", "target_url should name where it leads")
    return Finding(
        check, "warn", f"{target} answers {status} ({took})", "try again; look at the provider's status page"
    )


def clock(replies: Mapping[str, Reply]) -> Finding:
    """Rows carry this machine's time. The middle of what upstreams say is taken for the right one."""
    told = {name: reply.ahead for name, reply in replies.items() if reply.ahead is not None}
    if not told:
        return Finding("clock", "warn", "could not be compared: no upstream told the time")
    ahead = sorted(told.values())[(len(told) - 1) // 2]
    who = ", ".join(sorted(told))
    if abs(ahead) <= _LATE:
        return Finding("clock", "ok", f"agrees with that of {who}")
    message = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} that of {who}"
    return Finding(
        "clock", "fail" if abs(ahead) > _WRONG else "warn", message, "rows would be dated wrong: synchronise it (NTP)"
    )
