"""Every command of the executable starts, and answers as the installed one does."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fluxen import __version__

if TYPE_CHECKING:
    from packaging.smoke.conftest import Fluxen


def test_version(fluxen: Fluxen) -> None:
    for spelling in ("--version", "-V"):
        done = fluxen.run(spelling)
        assert (done.stdout, done.stderr) == (f"fluxen {__version__}\n", "")
    assert fluxen.unpacked() == []


def commands_in(help_text: str) -> list[str]:
    """The names under `Commands:`."""
    _, _, listed = help_text.partition("\nCommands:\n")
    return [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and not line.startswith("   ")]


def test_help_of_every_command(fluxen: Fluxen) -> None:
    seen = []
    paths: list[list[str]] = [[], ["self-test"]]
    for path in paths:
        done = fluxen.run(*path, "--help")
        assert done.stdout.startswith(f"Usage: {' '.join(['fluxen', *path])} "), done.stdout
        assert done.stderr == ""
        seen.append(" ".join(path))
        paths += [[*path, name] for name in commands_in(done.stdout)]
    assert {"serve", "report costs", "sql", "validate", "ledger verify", "ledger export"} <= set(seen)
    assert fluxen.unpacked() == []


def test_everything_is_in_it(fluxen: Fluxen) -> None:
    """In an environment without a store of certificates of its own to name, too."""
    told = fluxen.json("self-test")
    assert told["ok"] and told["frozen"], told
    assert told["version"] == __version__


def test_all_data_is_in_it(fluxen: Fluxen) -> None:
    """Each file in the packages that is no code: what the self-test reads, and whatever is added later."""
    source = Path(__file__).parents[2]
    files = [path for name in ("fluxen", "cli/fluxen_cli") for path in (source / name).rglob("*") if path.is_file()]
    data = [path for path in files if path.suffix not in (".py", ".pyc", ".typed")]
    assert {"prices.json.zst", "providers.yaml"} <= {path.name for path in data}
    packed = b"".join(piece.read_bytes() for piece in _parts(fluxen))
    missing = [str(path) for path in data if packed.find(path.read_bytes()) < 0]
    assert not missing, "not in it, or in another version"


def _parts(fluxen: Fluxen) -> list[Path]:
    if fluxen.one_file:  # nothing in it is compressed
        return [fluxen.binary]
    return [path for path in (fluxen.binary.parent / "_internal" / "fluxen").rglob("*") if path.is_file()]


def test_a_mistake_is_explained(fluxen: Fluxen) -> None:
    done = fluxen.run("serve", "--prot", "1", code=2)
    assert "No such option: --prot" in done.stderr
    done = fluxen.run("report", "costs", code=5)
    assert done.stderr.startswith("error: ") and "hint: " in done.stderr


def test_validate(fluxen: Fluxen) -> None:
    done = fluxen.run("validate")
    assert done.stdout.startswith("ok: no configuration file")
    (fluxen.elsewhere / "fluxen.yaml").write_text("version: 1\nserver: {port: 1}\n")
    done = fluxen.run("validate", code=3)
    assert "fluxen.yaml:2:10: server.port" in done.stderr
    schema = json.loads(fluxen.run("validate", "--schema").stdout)
    assert schema["title"] == "fluxen.yaml"
    assert fluxen.unpacked() == []


def test_it_is_found_through_a_link(fluxen: Fluxen) -> None:
    """As a package puts it into /usr/bin."""
    link = fluxen.elsewhere / "linked"
    link.symlink_to(fluxen.binary)
    done = subprocess.run([link, "self-test"], env=fluxen.env(), cwd="/", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(fluxen: Fluxen, shell: str) -> None:
    """The script a shell is to load, and what it asks for then."""
    script = fluxen.run(env={"_FLUXEN_COMPLETE": f"source_{shell}"}).stdout
    assert "_FLUXEN_COMPLETE" in script and "fluxen" in script
    asked = {"COMP_WORDS": "fluxen rep", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "fluxen rep"}
    more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_FLUXEN_COMPLETE": f"complete_{shell}"}
    assert "report" in fluxen.run(env={**asked, **more}).stdout


def test_it_finds_out_which_shell_this_is(fluxen: Fluxen) -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", '"$0" --show-completion; exit $?', fluxen.binary],
        env=fluxen.env(), cwd=fluxen.elsewhere, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete_bash" in done.stdout


def test_a_closed_or_full_output_is_no_traceback(fluxen: Fluxen) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [fluxen.binary, "validate"], env=fluxen.env(), cwd=fluxen.elsewhere, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"


def test_what_is_not_needed_stays_packed(unpacking: Fluxen) -> None:
    """DuckDB is the largest file by far: where no file may be as large, everything that needs no DuckDB works."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 20, 32 << 20))

    assert unpacking.binary.stat().st_size > 64 << 20
    assert unpacking.run("validate", preexec_fn=small_files).stdout.startswith("ok: ")
    told = unpacking.json("self-test", code=1, preexec_fn=small_files)
    failed = {check["name"]: check["detail"] for check in told["checks"] if not check["ok"]}
    assert {"duckdb", "time zones"} <= set(failed)
    assert "File too large: '" in failed["duckdb"]
    assert unpacking.unpacked() == []
