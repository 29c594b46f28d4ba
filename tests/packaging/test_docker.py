"""The Dockerfile and the compose file: against their schema and linter, and against each other.

That the image is built and works is packaging/container.sh's to prove: it takes root and some minutes.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath

import yaml
from shared import ROOT, Fluxen, missing

from fluxen import __version__
from fluxen.config.model import Server
from fluxen.config.paths import SYSTEM_CONFIG
from fluxen.gateway import supervisor
from fluxen.providers.catalogue import load_catalogue

FOLDER = ROOT / "packaging"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program that the development environment brings."""
    program = Path(sys.executable).with_name(name)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def instructions(name: str, *, last_stage: bool = True) -> list[str]:
    """Arguments of an instruction, with its continuation lines joined."""
    stages = re.split(r"^(?=FROM )", re.sub(r"\\\n\s*", "", DOCKERFILE), flags=re.MULTILINE)
    text = stages[-1] if last_stage else "".join(stages)
    return re.findall(rf"^{name} (.+)$", text, re.MULTILINE)


def test_the_dockerfile_passes_the_linter() -> None:
    done = tool("hadolint", str(FOLDER / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_looks_at_it(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("--no-install-recommends ", ""))
    done = tool("hadolint", str(tmp_path / "Dockerfile"))
    assert done.returncode == 1
    assert "DL3015" in done.stdout


def test_the_compose_file_follows_the_specification(tmp_path: Path) -> None:
    check = ["--builtin-schema", "vendor.compose-spec"]
    done = tool("check-jsonschema", *check, str(FOLDER / "compose.yaml"))
    assert done.returncode == 0, done.stdout
    (tmp_path / "compose.yaml").write_text((FOLDER / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    done = tool("check-jsonschema", *check, str(tmp_path / "compose.yaml"))
    assert done.returncode == 1
    assert "readonly" in done.stdout


def test_docker_compose_finds_its_file_from_the_root() -> None:
    """Compose reads .env in the current folder; COMPOSE_FILE there is relative to it. Nothing else is in there:
    git tracks the file."""
    lines = [line for line in (ROOT / ".env").read_text().splitlines() if line and not line.startswith("#")]
    (line,) = lines
    name, _, value = line.partition("=")
    assert name == "COMPOSE_FILE"
    assert ROOT / value == FOLDER / "compose.yaml"


def test_paths_in_the_compose_file_are_relative_to_it() -> None:
    service = COMPOSE["services"]["fluxen"]
    build = service["build"]
    context = (FOLDER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    optional, names = service["env_file"]
    assert optional["required"] is False
    assert not (FOLDER / optional["path"]).exists() or ignored(FOLDER / optional["path"])
    assert (FOLDER / names).is_file()
    assert ignored(FOLDER / optional["path"])
    assert ignored(FOLDER / "etc" / "fluxen.yaml")


def ignored(path: Path) -> bool:
    if not (ROOT / ".git").exists():
        missing("needs the git repository, to ask what it ignores")
    return subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT, check=False).returncode == 0


def test_every_provider_key_reaches_the_container_and_none_is_written_down() -> None:
    text = (FOLDER / "providers.env").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Z_]+", line) for line in lines)
    assert sorted(lines) == sorted({name for provider in load_catalogue().values() for name in provider.env})


def test_the_container_may_do_nothing_else() -> None:
    service = COMPOSE["services"]["fluxen"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert not service.keys() & {"cap_add", "network_mode", "pid", "user"}
    (port,) = service["ports"]
    assert port.startswith("127.0.0.1:")


def test_ports_paths_and_user_agree() -> None:
    service = COMPOSE["services"]["fluxen"]
    (exposed,) = instructions("EXPOSE")
    assert service["ports"] == [f"127.0.0.1:{exposed}:{exposed}"]
    (command,) = instructions("CMD")
    assert yaml.safe_load(command) == ["serve", "--bind", f"0.0.0.0:{exposed}", "--first-key"]
    (health,) = instructions("HEALTHCHECK")
    options, _, check = health.partition("CMD ")
    assert yaml.safe_load(check) == ["fluxen", "health", "--url", f"http://127.0.0.1:{exposed}"]
    assert "--timeout=5s" in options.split()
    (data,) = instructions("VOLUME")
    env = dict(part.split("=", 1) for part in shlex.split(" ".join(instructions("ENV"))))
    assert env["FLUXEN_DATA_DIR"] == data
    named, configuration = (volume.split(":") for volume in service["volumes"])
    assert named == [*COMPOSE["volumes"], data]
    assert configuration == ["./etc", str(SYSTEM_CONFIG.parent), "ro"]
    (user,) = instructions("USER")
    uid, gid = user.split(":")
    made = " ".join(instructions("RUN"))
    assert f"--uid {uid} " in made
    assert f"--gid {gid} " in made
    assert re.search(rf"install --directory --owner fluxen --group fluxen --mode 0700 {data}\b", made)


def test_it_may_end_in_peace() -> None:
    """The time Docker waits before it kills is longer than a stop may take."""
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    grace = COMPOSE["services"]["fluxen"]["stop_grace_period"]
    assert grace.endswith("s")
    longest = Server().shutdown_timeout_ms / 1000 + supervisor._GRACE + supervisor._OTHERS_GRACE
    assert int(grace[:-1]) >= longest


def test_both_stages_are_the_same_debian_and_say_what_they_are() -> None:
    stages = instructions("FROM", last_stage=False)
    assert {stage.partition(" AS ")[0] for stage in stages} == {"debian:bookworm-slim"}
    labels = dict(part.split("=", 1) for part in shlex.split(" ".join(instructions("LABEL"))))
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_build_sees_what_it_copies_and_no_more() -> None:
    """.dockerignore begins with everything and takes back what the build needs."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    for name in kept:
        assert (ROOT / name).exists(), name
    used = {
        "packaging/freeze.py",
        "packaging/requirements.lock",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "fluxen",
        "cli",
    }
    assert used <= set(kept)
    dropped = [rule for rule in rules[1:] if not rule.startswith("!")]
    for secret in (".env", ".git", "fluxen.yaml", "packaging/fluxen.env", "packaging/etc/fluxen.yaml", "tests"):
        assert not any(PurePosixPath(secret).is_relative_to(name) for name in kept), secret
    assert any(fnmatch.fnmatch("fluxen/__pycache__", rule.replace("**", "*")) for rule in dropped)


def documented() -> list[str]:
    """Lines of the blocks marked `sh docker`, with their continuation lines joined."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [
        block for page in pages for block in re.findall(r"^```sh docker\n(.*?)^```$", page.read_text(), re.M | re.S)
    ]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def test_documented_commands_fit_what_is_here(fluxen: Fluxen) -> None:
    """No test has a Docker daemon, so what is checked of these lines is what they say of this repository."""
    seen = 0
    for line in documented():
        words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
        for name in re.findall(r"\b[A-Z_]+_API_KEY\b", line):
            assert name in (FOLDER / "providers.env").read_text().split()
        if words[:3] == ["docker", "compose", "exec"]:
            service, program, *command = words[3:]
            assert service in COMPOSE["services"]
            if program == "fluxen":
                options = [word for word in command if word.startswith("--")]
                path = command[: 1 + (command[0] in ("report", "ledger"))]
                done = fluxen(*path, "--help")
                assert done.returncode == 0, line
                assert all(option in done.stdout for option in options), line
            seen += 1
        elif words[:2] == ["docker", "build"]:
            assert words[words.index("--file") + 1] == "packaging/Dockerfile"
            seen += 1
        elif words[:2] == ["docker", "run"]:
            assert f"127.0.0.1:8080:{instructions('EXPOSE')[0]}" in words
            assert f"fluxen:{instructions('VOLUME')[0]}" in words
            seen += 1
        else:
            assert words[:2] == ["docker", "compose"] or words[0] in ("export", "git"), line
    assert seen >= 5
