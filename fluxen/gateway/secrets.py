"""What a snapshot knows that must never be written anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from fluxen.gateway.snapshot import Snapshot
from fluxen.telemetry.secrets import Secrets


def secrets_of(snapshot: Snapshot) -> Secrets:
    """The providers' keys, wherever they come from, the client keys of the configuration, what signs tokens, and the
    key of the admin listener. Of keys.json only hashes are known."""
    return Secrets(_values(snapshot))


def _values(snapshot: Snapshot) -> Iterator[str]:
    for upstream in snapshot.upstreams:
        for credential in upstream.credentials:
            yield credential.value.decode("latin-1").rpartition(" ")[2]
    config = snapshot.config
    if config.admin is not None and config.admin.key is not None:
        yield config.admin.key.reveal()
    if config.api_keys is not None:
        written = [key.key for key in config.api_keys.static] + [key.key for key in config.api_keys.jwt]
        yield from (key.reveal() for key in written if key is not None)
