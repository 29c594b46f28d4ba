"""Fixtures of the data plane's tests: gateways (real processes) and upstreams (raw sockets)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import trustme
from gateway.rig import Gateway, Upstream

StartGateway = Callable[..., Gateway]


def environment(home: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the developer's in it."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "NO_PROXY": "*", **env}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Start a gateway of this test's own: gateway(yaml, env={…}, args=[…]). All are stopped, and checked, at its end.
    `bind_address` should be 127.0.0.1:0. A test that has killed one calls its `kill`."""
    started: list[Gateway] = []

    def start(config: str, env: Mapping[str, str] | None = None, args: Iterable[str] = ()) -> Gateway:
        folder = tmp_path / f"gateway-{len(started)}"
        started.append(Gateway(folder, config, environment(folder / "home", env or {}), args))
        return started[-1]

    yield start
    _stop(started)


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Like `gateway`, for tests that can share one: the same configuration gives the same process."""
    started: dict[tuple[str, tuple[tuple[str, str], ...]], Gateway] = {}

    def start(config: str, env: Mapping[str, str] | None = None) -> Gateway:
        key = (config, tuple(sorted((env or {}).items())))
        if key not in started:
            folder = tmp_path_factory.mktemp("gateway")
            started[key] = Gateway(folder, config, environment(folder / "home", env or {}))
        return started[key]

    yield start
    _stop(started.values())


def _stop(started: Iterable[Gateway]) -> None:
    failures: list[str] = []
    for one in started:
        try:
            one.stop()
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificate and key of a gateway that is called localhost and 127.0.0.1, and whom to believe."""
    made = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(made / "server.pem"), append=number > 0)
    issued.private_key_pem.write_to_path(str(made / "server.key"))
    authority.cert_pem.write_to_path(str(made / "ca.pem"))
    return made


@pytest.fixture(scope="session")
def _session_upstreams() -> Iterator[dict[str, Upstream]]:
    upstreams: dict[str, Upstream] = {}
    yield upstreams
    for one in upstreams.values():
        one.close()


@pytest.fixture
def upstreams(_session_upstreams: dict[str, Upstream]) -> Iterator[Callable[[str], Upstream]]:
    """upstreams('openai'): an upstream whose port stays the same for the session, reset for each test."""
    used: dict[str, Upstream] = {}

    def get(name: str) -> Upstream:
        if name not in used:
            found = _session_upstreams.get(name)
            if found is None:
                found = _session_upstreams[name] = Upstream()
            else:
                found.reset()
            used[name] = found
        return used[name]

    yield get
    for name, one in used.items():
        assert not one.faults, f"in the upstream {name}: {one.faults!r}"


@pytest.fixture
def upstream(upstreams: Callable[[str], Upstream]) -> Upstream:
    """The upstream of tests that need one."""
    return upstreams("openai")
