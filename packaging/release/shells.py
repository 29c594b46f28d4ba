"""Completions for bash, zsh and fish, as the executable itself gives them, and where a package puts them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PLACES = {
    "bash": ("fluxen.bash", "bash-completion/completions/fluxen"),
    "zsh": ("_fluxen", "zsh/vendor-completions/_fluxen"),
    "fish": ("fluxen.fish", "fish/vendor_completions.d/fluxen.fish"),
}

# zsh reads the file when completion is first asked for, and takes its last command for the answer.
_FIRST_TIME = '\nif [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n  _fluxen_completion "$@"\nfi\n'


def completions(binary: Path) -> dict[str, tuple[str, bytes]]:
    """File name → its place below /usr/share, and its text."""
    made = {}
    for shell, (name, place) in PLACES.items():
        env = {"_FLUXEN_COMPLETE": f"source_{shell}", "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
        asked = subprocess.run([binary], env=env, capture_output=True, text=True, check=True)
        text = asked.stdout.strip() + "\n" + (_FIRST_TIME if shell == "zsh" else "")
        made[name] = (place, text.encode())
    return made
