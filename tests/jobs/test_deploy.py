"""The files in `deploy/` agree with KubeRay's fields, with requirements.lock, and with the exported metrics."""

import json
import re
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from longtake.actors.metrics import EXPORTED

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())

# Fields of ray.io/v1, from ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go of ray-project/kuberay; authOptions
# from KubeRay's API reference, version 1.5.1 and later.
JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
    *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
    *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
}
CLUSTER = {
    *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
    *("headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
}
HEAD = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKERS = {
    *("groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas"),
    *("scaleStrategy", "template"),
}
AUTOSCALER = {
    *("env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext"),
    *("upscalingMode", "volumeMounts"),
}


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def spec(job):
    return job["spec"]


@pytest.fixture(scope="module")
def pods(spec):
    cluster = spec["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_rayjob_uses_fields_that_the_resource_has(job, spec):
    cluster = spec["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(spec) <= JOB
    assert set(cluster) <= CLUSTER
    assert set(cluster["headGroupSpec"]) <= HEAD
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER
    assert all(set(group) <= WORKERS for group in cluster["workerGroupSpecs"])
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
    assert cluster["autoscalerOptions"]["upscalingMode"] in {"Default", "Conservative", "Aggressive"}
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_rayjob_ends_by_itself_and_retries_since_resume_is_free(spec):
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["backoffLimit"] >= 1


def test_the_rayjob_runs_a_command_that_exists(spec):
    python, flag, module, *_ = spec["entrypoint"].split()
    assert (python, flag) == ("python", "-m")
    assert find_spec(module) is not None
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) <= {"env_vars", "working_dir", "py_modules"}


def test_the_rayjobs_head_computes_nothing_and_its_workers_bring_gpus(spec, pods):
    cluster = spec["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        [container] = group["template"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert cluster["rayVersion"] == LOCK["ray"]
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1


def test_every_pod_has_shared_memory_within_its_memory(pods):
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        shared = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shared["medium"] == "Memory"
        assert _gib(shared["sizeLimit"]) < _gib(container["resources"]["limits"]["memory"])


def _gib(quantity):
    return int(re.fullmatch(r"(\d+)Gi", quantity)[1])


@pytest.fixture(scope="module")
def instructions():
    text = (DEPLOY / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in lines.splitlines() if line.strip()]


def test_the_image_has_the_ray_that_is_locked(instructions):
    [base] = [rest.removeprefix("BASE=") for name, rest in instructions if name == "ARG"]
    assert base == f"rayproject/ray:{LOCK['ray']}-py311-gpu"
    assert [rest for name, rest in instructions if name == "FROM"] == ["${BASE}"]
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert cluster["docker"]["image"] == base


def test_the_image_copies_existing_files_and_installs_the_locks(instructions):
    copied = {
        source
        for name, rest in instructions
        if name == "COPY"
        for source in [word for word in rest.split() if not word.startswith("--")][:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    assert copied >= {"longtake", "jobs", "actors", "pipeline", "setup.py", "pyproject.toml", "requirements.lock"}
    run = " ".join(rest for name, rest in instructions if name == "RUN")
    for lock in ROOT.glob("requirements*.lock"):
        assert lock.name in copied
        assert f"--requirement {lock.name}" in run


def test_the_image_knows_only_instructions_and_ends_without_root(instructions):
    assert {name for name, _ in instructions} <= {"ARG", "FROM", "USER", "RUN", "WORKDIR", "ENV", "COPY", "CMD"}
    assert [rest for name, rest in instructions if name == "USER"][-1] == "ray"


@pytest.fixture(scope="module")
def board():
    return json.loads((DEPLOY / "grafana.json").read_text())


def _queries(board):
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return panels + [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]


def test_the_dashboard_queries_exactly_the_exported_metrics(board):
    asked = {name for query in _queries(board) for name in re.findall(r"\bray_\w+", query)}
    assert asked == EXPORTED


def test_the_dashboards_queries_use_existing_tags(board):
    for query in _queries(board):
        assert set(re.findall(r"(\w+)=~", query)) <= {"gang"}
        for names in re.findall(r"by \(([^)]*)\)", query):
            assert set(names.split(", ")) <= {"act", "gang", "le"}
        assert query.count("(") == query.count(")")


def test_the_dashboard_can_be_imported_anywhere(board):
    assert board["uid"]
    assert board["title"]
    assert {one["name"] for one in board["templating"]["list"] if one["type"] == "datasource"} == {"datasource"}
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${datasource}"}
    assert "id" not in board


def test_no_two_panels_overlap(board):
    boxes = [panel["gridPos"] for panel in board["panels"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(boxes)
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in combinations(boxes, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_no_file_names_a_machine_account_or_key(path):
    text = path.read_text()
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) <= {"127.0.0.1", "0.0.0.0"}
    assert not re.search(r"AKIA|arn:|\d{12}|BEGIN [A-Z ]*KEY", text)
