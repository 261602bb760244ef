"""The Kubernetes manifests agree with each other, with the stack file, and with the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import front_group
from serving.config.journal import PASSWORD_VARIABLE
from serving.config.stack_file import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "k8s"
STACK = load(FOLDER / "stack.yaml")
CHECK = ROOT / "scripts" / "check_k8s.py"

# A definition as small as can be, in the form of KubeRay's own.
DEFINITION = """
spec:
  group: ray.io
  names: {kind: RayService}
  versions:
    - name: v1
      served: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [image]
              properties:
                image: {type: string}
                port: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true}
                labels: {type: object, additionalProperties: {type: string}}
"""


def documents() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return [
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((FOLDER / name).read_text())
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


CLUSTER: dict[str, Any] = of_kind("RayService")[0]["spec"]["rayClusterConfig"]
APPLICATIONS: dict[str, dict[str, Any]] = {
    app["name"]: app
    for app in yaml.safe_load(of_kind("RayService")[0]["spec"]["serveConfigV2"])["applications"]
}
GROUPS: dict[str, dict[str, Any]] = {g["groupName"]: g for g in CLUSTER["workerGroupSpecs"]}
PODS: dict[str, dict[str, Any]] = {
    "head": CLUSTER["headGroupSpec"]["template"],
    **{name: group["template"] for name, group in GROUPS.items()},
}


def container(pod: str) -> dict[str, Any]:
    (found,) = PODS[pod]["spec"]["containers"]
    result: dict[str, Any] = found
    return result


def resources(group: str) -> dict[str, float]:
    """The custom resources that a group's Ray nodes are started with."""
    found: dict[str, float] = json.loads(json.loads(GROUPS[group]["rayStartParams"]["resources"]))
    return found


def test_every_model_and_the_front_door_is_one_application() -> None:
    assert set(APPLICATIONS) == {*STACK.models, "front"}
    for name, app in APPLICATIONS.items():
        assert app["route_prefix"] is None
        assert app["args"]["config"] == "/etc/warmloop/stack.yaml"
        if name in STACK.models:
            assert app["import_path"] == "serving.cluster.replica:build_app"
            assert app["args"]["model"] == name


def test_each_models_group_has_the_gpus_for_all_its_replicas() -> None:
    for name, model in STACK.models.items():
        assert model.node_group is not None
        group = GROUPS[model.node_group]
        assert resources(model.node_group)[model.node_group] > 0
        limits = container(model.node_group)["resources"]["limits"]
        gpus = int(limits["nvidia.com/gpu"])
        assert gpus == int(group["rayStartParams"]["num-gpus"])
        assert group["replicas"] * (gpus // model.gpus) >= model.replicas, name
        assert container(model.node_group)["resources"]["requests"]["nvidia.com/gpu"] == str(gpus)


def test_each_engines_pod_has_the_memory_and_the_disk_that_its_model_asks_for() -> None:
    for model in STACK.models.values():
        assert model.node_group is not None
        volumes = {v["name"]: v for v in PODS[model.node_group]["spec"]["volumes"]}
        memory = gib(container(model.node_group)["resources"]["limits"]["memory"])
        shared = gib(volumes["shm"]["emptyDir"]["sizeLimit"])
        (offload,) = [a for a in model.extra_args if a.startswith("--kv-offloading-size=")]
        assert memory >= model.memory_gib
        assert shared > float(offload.partition("=")[2])
        assert memory > shared
        assert gib(volumes["home"]["emptyDir"]["sizeLimit"]) > model.disk_gib


def gib(text: str) -> float:
    found = re.fullmatch(r"(\d+)(Gi|Mi)", text)
    assert found is not None, text
    return int(found.group(1)) / (1 if found.group(2) == "Gi" else 1024)


def test_the_front_doors_run_on_the_front_group_and_the_service_finds_them() -> None:
    assert resources("front")[front_group.RESOURCE] > 0
    assert int(APPLICATIONS["front"]["args"]["replicas"]) == GROUPS["front"]["replicas"]
    (service,) = of_kind("Service")
    labels = PODS["front"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    for name in PODS.keys() - {"front"}:
        assert not service["spec"]["selector"].items() <= PODS[name]["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    ports = {p["name"]: p["containerPort"] for p in container("front")["ports"]}
    assert ports[port["targetPort"]] == port["port"] == STACK.front.port
    assert STACK.front.host == "0.0.0.0"
    probe = container("front")["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == ("/ready", STACK.front.port)


def test_several_front_doors_share_a_journal_that_outlives_their_pods() -> None:
    assert GROUPS["front"]["replicas"] > 1
    assert (STACK.journal.url or "").startswith("postgresql://")
    names = {variable["name"] for variable in container("front")["env"]}
    assert {PASSWORD_VARIABLE, "WARMLOOP_PEER_SECRET"} <= names
    assert of_kind("PersistentVolumeClaim") == []


def test_no_second_cluster_wants_as_many_gpus_again() -> None:
    assert of_kind("RayService")[0]["spec"]["upgradeStrategy"]["type"] == "None"


@pytest.mark.parametrize("pod", PODS)
def test_no_pod_is_root_and_each_has_its_probes_and_the_stack_file(pod: str) -> None:
    spec, ray = PODS[pod]["spec"], container(pod)
    assert spec["securityContext"]["runAsNonRoot"] is True
    user = spec["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}\n" in (ROOT / "Dockerfile.cuda").read_text()
    assert ray["securityContext"]["allowPrivilegeEscalation"] is False
    assert ray["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert spec["automountServiceAccountToken"] is False
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= ray.keys()
    mounts = {mount["name"]: mount["mountPath"] for mount in ray["volumeMounts"]}
    assert mounts == {
        "stack": "/etc/warmloop",
        "home": "/var/lib/warmloop",
        "shm": "/dev/shm",  # noqa: S108 the KV cache's second home
    }
    assert {v["name"] for v in spec["volumes"]} == set(mounts)
    assert {"name": "WARMLOOP_HOME", "value": mounts["home"]} in ray["env"]
    drain_s = STACK.front.drain_s + 15
    assert spec["terminationGracePeriodSeconds"] > drain_s


def test_all_pods_run_one_image_that_kustomize_can_replace() -> None:
    images = {container(pod)["image"] for pod in PODS}
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    assert images == {f"{image['name']}:{image['newTag']}"}


def test_the_stack_file_is_what_the_pods_mount() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (made,) = kustomization["configMapGenerator"]
    assert made["files"] == ["stack.yaml"]
    assert kustomization["generatorOptions"]["disableNameSuffixHash"] is True
    for pod in PODS.values():
        stack = next(v for v in pod["spec"]["volumes"] if v["name"] == "stack")
        assert stack["configMap"]["name"] == made["name"]


def test_the_models_are_those_whose_arithmetic_is_written_down() -> None:
    assert STACK.models == load(ROOT / "configs" / "cluster.yaml").models


def test_the_cluster_runs_the_ray_that_is_pinned() -> None:
    pinned = re.search(
        r"^ray==(\S+)$", (ROOT / "requirements" / "core.txt").read_text(), re.MULTILINE
    )
    assert pinned is not None
    assert CLUSTER["rayVersion"] == pinned.group(1)
    assert CLUSTER["authOptions"]["mode"] == "token"
    # KubeRay creates its own Service only if the head has a port of this name, and stops without.
    assert "serve" in {port["name"] for port in container("head")["ports"]}


def test_budgets_and_policies_select_pods_that_exist() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert len(budgets) == len(PODS)
    for document in budgets:
        assert selected(document["spec"]["selector"]["matchLabels"]), document["metadata"]["name"]
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind("NetworkPolicy")}
    assert selected(policies["warmloop"]["podSelector"]["matchLabels"]) == set(PODS)
    for pod in ("head", "front"):
        spec = policies[f"warmloop-{pod}"]
        assert selected(spec["podSelector"]["matchLabels"]) == {pod}
        (rule,) = spec["ingress"]
        names = {port["name"] for port in container(pod)["ports"]}
        assert {port["port"] for port in rule["ports"]} <= names


def selected(labels: dict[str, str]) -> set[str]:
    return {n for n, pod in PODS.items() if labels.items() <= pod["metadata"]["labels"].items()}


SECRETS = ("HF_TOKEN", PASSWORD_VARIABLE, "WARMLOOP_PEER_SECRET")


def test_secrets_are_referred_to_and_never_written() -> None:
    assert of_kind("Secret") == []
    for pod in PODS:
        for variable in container(pod)["env"]:
            secret = variable["name"] in SECRETS
            assert ("valueFrom" in variable) == secret, variable["name"]


def test_ray_serve_takes_the_applications_and_can_build_each_of_them() -> None:
    config = of_kind("RayService")[0]["spec"]["serveConfigV2"]
    code = (
        "import importlib, sys, yaml\n"
        "from ray.serve.schema import ServeDeploySchema\n"
        "schema = ServeDeploySchema.model_validate(yaml.safe_load(sys.argv[1]))\n"
        "print(schema.proxy_location.value)\n"
        "for app in schema.applications:\n"
        "    module, _, name = app.import_path.partition(':')\n"
        "    args = {**app.args, 'config': sys.argv[2]}\n"
        "    built = getattr(importlib.import_module(module), name)(args)\n"
        "    print(app.name, type(built).__name__, app.route_prefix)\n"
    )
    # Elsewhere, since importing Ray gives warnings, which are errors here.
    done = subprocess.run(
        [sys.executable, "-c", code, config, str(FOLDER / "stack.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        "Disabled",
        "frontier Application None",
        "small Application None",
        "front Application None",
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{image: a, port: 80, free: {x: 1}, labels: {a: b}}", None),
        ("{image: a, port: http}", None),
        ("{imag: a}", "'image' is a required property"),
        ("{image: a, imag: b}", "'imag' was unexpected"),
        ("{image: a, port: 1.5}", "is not of type"),
        ("{image: a, labels: {a: 1}}", "spec.labels.a: 1 is not of type 'string'"),
    ],
)
def test_the_check_against_the_operators_definition_finds_mistakes(
    spec: str, said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "crd.yaml").write_text(DEFINITION)
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        f"apiVersion: ray.io/v1\nkind: RayService\nmetadata: {{name: a}}\nspec: {spec}\n"
    )
    done = subprocess.run(
        [sys.executable, str(CHECK), str(tmp_path / "crd.yaml"), str(manifest)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if said is None else 1), done.stderr
    assert (said or "1 RayService checked, 0 mistakes") in done.stdout


def test_the_check_against_the_definition_finds_our_manifest_by_itself(tmp_path: Path) -> None:
    (tmp_path / "crd.yaml").write_text(DEFINITION)
    done = subprocess.run(
        [sys.executable, str(CHECK), str(tmp_path / "crd.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "rayservice.yaml: spec: 'image' is a required property" in done.stdout
