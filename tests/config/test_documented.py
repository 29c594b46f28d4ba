"""The commands of docs/configuration.md do what stands beside them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from shared import ROOT, require_program

from fluxen.config.load import load_bytes
from fluxen.keys.generate import hash_of


def test_a_key_and_its_hash_made_in_a_shell(tmp_path: Path) -> None:
    require_program("openssl")
    (block,) = re.findall(r"^```sh run\n(.*?)^```$", (ROOT / "docs" / "configuration.md").read_text(), re.M | re.S)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'{block}\necho "$KEY"'], capture_output=True, text=True, check=True
    )
    digest, _, key = done.stdout.split()
    assert re.fullmatch("flx_[0-9a-f]{64}", key)
    config = load_bytes(f'api_keys: {{static: [{{hash: "sha256:{digest}"}}]}}'.encode(), {"HOME": "/"}, None).config
    assert config.api_keys is not None
    assert config.api_keys.static[0].hash == hash_of(key)
