"""The first fluxen.yaml: short, with a comment beside everything a reader is likely to change next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

from fluxen.config.values import Address


@dataclass(frozen=True, slots=True)
class StarterUpstream:
    """A provider that Fluxen knows by name. api_key: a reference, never a key; None: none is written."""

    name: str
    api_key: str | None
    comment: str


_TEXT: Final = """\
# The configuration of Fluxen, made by `fluxen init` on {today}. Nothing in it is secret.
#
#   fluxen validate   checks this file
#   fluxen serve      starts the gateway
#   fluxen doctor     finds out whether what it needs is there and in order
#
# A setting behind '#' is an example; take the '#' away to use it. docs/configuration.md explains every setting there
# is, and `fluxen validate --schema` prints a JSON Schema with which an editor can help.

version: 1

server:
  bind_address: "{bind}"  # "0.0.0.0:8080" is for other machines, too
  #workers: 2               # processes that serve requests; default 1

# Providers, and Fluxen's own key for each. A client never sees these keys: it has one of those below.
{remark}upstreams:
{upstreams}
  # Anything else that speaks the protocol of OpenAI, Anthropic or Gemini:
  #local: {{target_url: "http://127.0.0.1:8000", dialect: openai, models: ["llama-*"]}}

# Who may call. A client sends its key as the API key of its SDK. Only hashes are kept here; for another key:
#   key="flx_$(openssl rand -hex 32)"; echo "$key"; printf %s "$key" | sha256sum
api_keys:
  static:
    - id: {key_id}
      hash: "{key_hash}"
      #team: research       # written into each row of this key, to have costs by team
      #upstreams: [openai]  # may use only these; default: all

# The costs of every request. `fluxen report costs` shows them.
#ledger:
  #retention_days: 400      # default: kept for ever
"""

_EVERY_PROVIDER: Final = """\
# With none named here: openai, anthropic and gemini, and every provider whose key is in the environment
# (OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY …).
"""


def starter(bind: Address, upstreams: Iterable[StarterUpstream], key_id: str, key_hash: str, today: date) -> str:
    """The text of the file. It has no more in it than these values: no key."""
    lines = [_upstream(one) for one in upstreams]
    return _TEXT.format(
        today=today.isoformat(),
        bind=bind,
        remark="" if lines else _EVERY_PROVIDER,
        upstreams="\n".join(lines) or '  #openai: {api_key: "${OPENAI_API_KEY}"}',
        key_id=key_id,
        key_hash=key_hash,
    )


def _upstream(one: StarterUpstream) -> str:
    value = f' {{api_key: "{one.api_key}"}}' if one.api_key else ""
    return f"  {one.name}:{value}  # {one.comment}"
