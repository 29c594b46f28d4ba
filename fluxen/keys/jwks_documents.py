"""The documents with the issuers' public keys: files, and what was fetched from URLs.

What was fetched lies in `<data_dir>/jwks/`, so that a start needs neither the network nor the issuer. It is what hands
keys from the process that fetches to those that serve, too: a document that changes is a change of the configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fluxen.config.document import Where
from fluxen.config.model import Config
from fluxen.config.paths import read_file
from fluxen.keys.tokens import source_of

FOLDER: Final = "jwks"
_TOLD: Final = 3  # keys of a set that are told to be unusable


def cache_path(data_dir: Path, url: str) -> Path:
    """Where the key set of a URL is kept."""
    return data_dir / FOLDER / f"{hashlib.sha256(url.encode()).hexdigest()}.json"


def urls(config: Config) -> tuple[str, ...]:
    """From where key sets are fetched, each once."""
    issuers = config.api_keys.jwt if config.api_keys is not None else ()
    return tuple(dict.fromkeys(issuer.jwks_url for issuer in issuers if issuer.jwks_url is not None))


@dataclass(slots=True)
class Documents:
    """by_source: as `Tokens` takes them. problems and warnings: what is wrong, and where it is written."""

    by_source: dict[str, bytes] = field(default_factory=dict)
    problems: list[tuple[Where, str]] = field(default_factory=list)
    warnings: list[tuple[Where, str]] = field(default_factory=list)


def read_documents(config: Config) -> Documents:
    """Read what is there. A file that is of no use is a problem; a set that has not been fetched yet is a warning."""
    documents = Documents()
    issuers = config.api_keys.jwt if config.api_keys is not None else ()
    if not issuers:
        return documents
    from fluxen.keys.jwks import ELSEWHERE, LARGEST, KeySet, KeySetError, is_public_key

    for index, issuer in enumerate(issuers):
        source = source_of(issuer)
        where: Where = (
            "api_keys",
            "jwt",
            index,
            "key" if source is None else "jwks_url" if issuer.jwks_url else "jwks_file",
        )
        if source is None:
            if issuer.secret is not None and is_public_key(issuer.secret):
                message = "is a public key, which is no secret: its tokens are refused. It belongs into a jwks_file"
                documents.warnings.append((where, message))
            continue
        url = issuer.jwks_url
        path = issuer.jwks_file if url is None else cache_path(config.data_dir, url)
        assert path is not None
        try:
            document = read_file(path, LARGEST + 1)
            keys = KeySet.parse(document)
        except OSError as error:
            if url is None:
                documents.problems.append((where, f"can't read {path}: {error.strerror}"))
            else:
                message = "the keys have not been fetched yet: until they are, tokens of this issuer are refused"
                documents.warnings.append((where, message))
        except KeySetError as error:
            found = documents.problems if url is None else documents.warnings
            found.append((where, f"{path} {error}"))
        else:
            documents.by_source[source] = document
            unused = [skipped for skipped in keys.skipped if not skipped.endswith(ELSEWHERE)]
            documents.warnings += [(where, f"{path}: {skipped}") for skipped in unused[:_TOLD]]
    return documents


def fetched_at(data_dir: Path, urls: tuple[str, ...]) -> Mapping[str, float]:
    """When each was last fetched, in seconds since 1970; those that never were are left out."""
    found: dict[str, float] = {}
    for url in urls:
        try:
            found[url] = cache_path(data_dir, url).stat().st_mtime
        except OSError:
            continue
    return found
