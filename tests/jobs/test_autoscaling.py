"""The node types of cluster.yaml under Ray's own autoscaler: machines are processes here, and GPUs are numbers.

`ray.cluster_utils.AutoscalingCluster` would do the same, but its start and its end are `ray stop --force`, which ends
every Ray of the machine, and the wheel of Ray 2.60 lacks the file that it reads first.
"""

import json
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.jobs.test_submit import ROOT, LocalCluster, free_ports

HEAD = "ray.head.default"  # the only name that the pretended provider has for it
HEAD_ID = "f" * 51 + "00000"
IDLE_MINUTES = 0.05

DRIVER = """
import json, pathlib, time
import ray
from ray.util.placement_group import placement_group, remove_placement_group

def workers():
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]

folder = pathlib.Path(__file__).parent
wanted, labels = json.loads((folder / "wish.json").read_text())
ray.init("auto", logging_level="ERROR", log_to_driver=False)
told = {"before": len(workers()), "cpus": ray.cluster_resources().get("CPU", 0)}
group = placement_group([wanted], bundle_label_selector=[labels])
told["placed"] = group.wait(45)
told["nodes"] = [[node["Resources"], node["Labels"]] for node in workers()]
remove_placement_group(group)
until = time.monotonic() + 45
while workers() and time.monotonic() < until:
    time.sleep(0.5)
told["after"] = len(workers())
(folder / "told.json").write_text(json.dumps(told))
"""


def pretended(cluster, folder, port):
    """cluster.yaml, with machines that are processes of this one: a file for `ray start --autoscaling-config`."""
    types = {
        HEAD if name == cluster["head_node_type"] else name: {**node_type, "node_config": {}}
        for name, node_type in cluster["available_node_types"].items()
    }
    for node_type in types.values():
        node_type["resources"] = {**node_type["resources"], "object_store_memory": 128 * 2**20}
    path = folder / "autoscaling.json"
    config = {
        "cluster_name": cluster["cluster_name"],
        "max_workers": cluster["max_workers"],
        "upscaling_speed": cluster["upscaling_speed"],
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        "auth": {},
        "head_node_type": HEAD,
        "available_node_types": types,
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.mark.slow
def test_a_worker_comes_for_a_placement_group_of_its_type_and_goes_after_it(cluster):
    spot = cluster["available_node_types"]["gpu-spot"]
    ports = free_ports("port")
    env = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_enable_worker_prestart": "0",  # eight interpreters for eight CPUs that are not there
        "RAY_prestart_worker_first_driver": "0",
    }
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "driver.py").write_text(DRIVER)
        (folder / "wish.json").write_text(json.dumps([spot["resources"], {"ray.io/market-type": "spot"}]))
        options = {**ports, "num-cpus": 0, "autoscaling-config": pretended(cluster, folder, ports["port"])}
        with LocalCluster(folder, options, env) as running:
            until = time.monotonic() + 60
            code, said = running.submit("python", str(folder / "driver.py"))
            while "No available agent" in said and time.monotonic() < until:
                code, said = running.submit("python", str(folder / "driver.py"))
        assert code == 0, said
        told = json.loads((folder / "told.json").read_text())
    assert (told["before"], told["cpus"]) == (0, 0)
    assert told["placed"]
    [(resources, labels)] = told["nodes"]
    assert {name: resources[name] for name in spot["resources"]} == spot["resources"]
    assert {name: labels[name] for name in spot["labels"]} == spot["labels"]
    assert told["after"] == 0
