"""The manifests in packaging/kubernetes, field by field, against the names the Kubernetes API knows.

NO CLUSTER HAS SEEN THEM: this test is what stands between them and one. It knows names and kinds of fields
(kubernetes.yaml beside it), checks that what refers to something finds it, and asks a real gateway, started as the
Deployment starts it, with the ConfigMap's configuration, at the paths of the probes. It knows nothing of defaults,
admission or what a cluster's version allows.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from shared import ROOT, Fluxen

from fluxen import __version__
from fluxen.config.load import Loaded, load_config
from fluxen.gateway import supervisor

FOLDER = ROOT / "packaging" / "kubernetes"
KINDS = {
    "Deployment": "apps/v1", "Service": "v1", "ConfigMap": "v1", "PersistentVolumeClaim": "v1",
    "PodDisruptionBudget": "policy/v1",
}  # fmt: skip
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Manifest = dict[str, Any]


def _types() -> dict[str, dict[str, str]]:
    """Type → field → kind of value."""
    table = yaml.safe_load(Path(__file__).with_name("kubernetes.yaml").read_text())
    return {name: {field: kind for kind, fields in kinds.items() for field in fields} for name, kinds in table.items()}


TYPES = _types()


def _resources() -> dict[str, Manifest]:
    """The manifests that `kubectl apply -k` applies, by kind."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    documents = [document for name in listed for document in yaml.safe_load_all((FOLDER / name).read_text())]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


@pytest.fixture(scope="module")
def resources() -> dict[str, Manifest]:
    return _resources()


@pytest.fixture(scope="module")
def pod(resources: dict[str, Manifest]) -> Manifest:
    spec: Manifest = resources["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Manifest) -> Manifest:
    (only,) = pod["containers"]
    return dict(only)


def problems(value: object, kind: str, where: str) -> Iterator[str]:
    """What is wrong with a value that should be of this kind."""
    if kind.startswith("["):
        if not isinstance(value, list) or not value:
            yield f"{where}: not a list, or an empty one"
        else:
            for index, item in enumerate(value):
                yield from problems(item, kind[1:-1], f"{where}[{index}]")
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{where}: not a mapping"
        else:
            for name, item in value.items():
                yield from problems(item, kind[1:-1], f"{where}.{name}")
    elif kind in TYPES:
        if not isinstance(value, dict) or not value:
            yield f"{where}: not a mapping, or an empty one"
        else:
            for name, item in value.items():
                if name in TYPES[kind]:
                    yield from problems(item, TYPES[kind][name], f"{where}.{name}")
                else:
                    yield f"{where}.{name}: a {kind} has no such field"
    elif not any(_is(value, one) for one in kind.split("|")):
        yield f"{where}: {value!r} is not {kind}"


def _is(value: object, kind: str) -> bool:
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "whole":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "quantity":
        return QUANTITY.fullmatch(str(value)) is not None and not isinstance(value, bool)
    assert kind == "text", kind
    return isinstance(value, str)


def test_every_file_is_applied() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "resources"}
    assert (kustomization["apiVersion"], kustomization["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}


def test_the_table_knows_every_type_it_names() -> None:
    named = {kind.strip("[]{}") for fields in TYPES.values() for kind in fields.values()}
    assert {part for kind in named for part in kind.split("|")} - {"text", "whole", "flag", "quantity"} <= set(TYPES)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_fields_and_values(resources: dict[str, Manifest], kind: str) -> None:
    manifest = resources[kind]
    assert manifest["apiVersion"] == KINDS[kind]
    assert list(problems(manifest, kind, kind)) == []
    assert NAME.fullmatch(manifest["metadata"]["name"])
    assert set(resources) == set(KINDS)


def test_the_check_finds_what_it_is_there_for(resources: dict[str, Manifest]) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(resources["Deployment"]))
    spec = wrong["spec"]["template"]["spec"]
    spec["containers"][0]["livenessProbe"]["httpget"] = {}
    spec["containers"][0]["resources"]["limits"]["memory"] = "1 GB"
    spec["securityContext"]["runAsNonRoot"] = "true"
    spec["volumes"] = {}
    wrong["spec"]["replicas"] = True
    where = "Deployment.spec.template.spec"
    assert set(problems(wrong, "Deployment", "Deployment")) == {
        f"{where}.containers[0].livenessProbe.httpget: a Probe has no such field",
        f"{where}.containers[0].resources.limits.memory: '1 GB' is not quantity",
        f"{where}.securityContext.runAsNonRoot: 'true' is not flag",
        f"{where}.volumes: not a list, or an empty one",
        "Deployment.spec.replicas: True is not whole",
    }


def test_selectors_find_the_pod(resources: dict[str, Manifest]) -> None:
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        resources["Deployment"]["spec"]["selector"]["matchLabels"],
        resources["Service"]["spec"]["selector"],
        resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


def test_one_gateway_per_volume(resources: dict[str, Manifest]) -> None:
    deployment = resources["Deployment"]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert resources["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    # minAvailable: 1 of one pod would make `kubectl drain` wait for ever.
    assert resources["PodDisruptionBudget"]["spec"].keys() == {"maxUnavailable", "selector"}


def test_volumes_and_mounts(resources: dict[str, Manifest], pod: Manifest, container: Manifest) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert (
        volumes["data"]["persistentVolumeClaim"]["claimName"] == resources["PersistentVolumeClaim"]["metadata"]["name"]
    )
    assert volumes["configuration"]["configMap"]["name"] == resources["ConfigMap"]["metadata"]["name"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env == {"FLUXEN_DATA_DIR": mounts["data"]["mountPath"]}
    assert mounts["configuration"]["mountPath"] == "/etc/fluxen"
    assert list(resources["ConfigMap"]["data"]) == ["fluxen.yaml"]


def test_the_image_is_the_one_that_is_built(container: Manifest) -> None:
    assert container["image"].rpartition(":")[2] == __version__


def test_restricted(pod: Manifest, container: Manifest) -> None:
    """What the Pod Security Standard `restricted` asks for, and a root file system that nobody can write to."""
    whole, own = pod["securityContext"], container["securityContext"]
    assert whole["runAsNonRoot"] is True
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "packaging" / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert (whole["runAsUser"], whole["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert whole["fsGroup"] == whole["runAsGroup"]


def test_no_secret_is_written_down(resources: dict[str, Manifest], container: Manifest) -> None:
    assert "Secret" not in resources
    (source,) = container["envFrom"]
    assert "secretRef" in source
    text = resources["ConfigMap"]["data"]["fluxen.yaml"]
    for value in re.findall(r"api_key: (\S+)", text):
        assert re.fullmatch(r'"\$\{[A-Z_]+\}"[},]*', value)
    assert "hash:" in text
    assert not re.search(r"\bkey:", text)


@pytest.fixture
def configuration(resources: dict[str, Manifest], tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "fluxen.yaml"
    path.parent.mkdir()
    path.write_text(resources["ConfigMap"]["data"]["fluxen.yaml"])
    return path


def secret_of(configuration: Path) -> dict[str, str]:
    """The environment that the Secret must bring."""
    return dict.fromkeys(re.findall(r"\$\{(\w+)\}", configuration.read_text()), "sk-from-the-secret")


def loaded(configuration: Path) -> Loaded:
    return load_config(configuration, {**secret_of(configuration), "HOME": "/"})


def test_the_configuration_is_valid(configuration: Path, fluxen: Fluxen) -> None:
    done = fluxen("validate", str(configuration), env=secret_of(configuration))
    assert (done.returncode, done.stderr) == (0, "")
    without = fluxen("validate", str(configuration))
    assert without.returncode == 3  # a Secret without the key is found at the start, by its name
    assert "OPENAI_API_KEY is not set" in without.stderr


def test_ports_match(resources: dict[str, Manifest], container: Manifest, configuration: Path) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    server = loaded(configuration).config.server
    assert ports == {"http": server.port}
    assert server.host == "0.0.0.0"
    (served,) = resources["Service"]["spec"]["ports"]
    assert served["targetPort"] in ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports


def test_there_is_time_to_end_and_memory_to_live(pod: Manifest, container: Manifest, configuration: Path) -> None:
    server = loaded(configuration).config.server
    assert pod["terminationGracePeriodSeconds"] >= (
        server.shutdown_timeout_ms / 1000 + supervisor._GRACE + supervisor._OTHERS_GRACE
    )
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    assert int(limit[:-2]) * 2**30 > 2 * server.workers * server.body_memory + 2**28


def test_probes_are_answered(
    configuration: Path, container: Manifest, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """By a gateway that is started as the container's is; only the port is any free one."""
    env = {**clean_env, **secret_of(configuration), "FLUXEN_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-m", "fluxen_cli", *container["args"], "--config", str(configuration), "--port", "0"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = (re.search(r"listening on 0\.0\.0\.0:(\d+)", line) for line in process.stdout)
        port = int(next(found[1] for found in said if found))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            # The kubelet asks by the pod's address, with a Host header that says so, and without any key.
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            path = container[probe]["httpGet"]["path"]
            connection.request("GET", path, headers={"Host": f"10.1.2.3:{port}", "User-Agent": "kube-probe/1.34"})
            assert connection.getresponse().status == 200, probe
            connection.close()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert os.listdir(tmp_path / "data")
