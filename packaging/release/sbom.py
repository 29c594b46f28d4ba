"""sbom.cdx.json: what the executable is made of, in CycloneDX 1.6."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from release.inventory import Part


def write(version: str, parts: Iterable[Part], when: int, glibc: str, missed: Mapping[str, str]) -> str:
    """The same parts give the same bytes: the serial number is derived from them.

    `missed`: newer versions of what was built from source that were known of, but not to be had.
    """
    newer = [{"name": "fluxen:newer-was-not-to-be-had", "value": " ".join(item)} for item in sorted(missed.items())]
    components = [_component(part) for part in parts]
    bom: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)),
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": "application",
                "bom-ref": "fluxen",
                "name": "fluxen",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
                "purl": f"pkg:pypi/fluxen@{version}",
            },
            "properties": [{"name": "fluxen:needs-glibc", "value": glibc}, *newer],
        },
        "components": components,
        "dependencies": _dependencies(parts),
    }
    digest = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))
    return json.dumps(bom | {"serialNumber": f"urn:uuid:{digest}"}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _reference(part: Part) -> str:
    return f"{part.within or ''}/{part.name}@{part.version}".lstrip("/")


def _component(part: Part) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _reference(part),
        "name": part.name,
        "version": part.version,
        "licenses": [{"expression": part.licence}],
    }
    if part.purl:
        component["purl"] = part.purl
    if part.patches:
        component["pedigree"] = {"patches": [_patch(patch.name, patch.fixes) for patch in part.patches]}
    if part.within:
        component["properties"] = [{"name": "fluxen:linked-into", "value": part.within}]
    return component


def _patch(name: str, fixes: Iterable[str]) -> dict[str, Any]:
    patch: dict[str, Any] = {"type": "backport", "diff": {"text": {"content": name}}}
    if resolves := [{"type": "security", "id": cve} for cve in fixes]:
        patch["resolves"] = resolves
    return patch


def _dependencies(parts: Iterable[Part]) -> list[dict[str, Any]]:
    own = [part for part in parts if not part.within]
    found: list[dict[str, Any]] = [{"ref": "fluxen", "dependsOn": [_reference(part) for part in own]}]
    for part in own:
        if inside := [_reference(other) for other in parts if other.within == part.name]:
            found.append({"ref": _reference(part), "dependsOn": sorted(set(inside))})
    return found
