import re
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load(CLUSTER.read_text())


@pytest.mark.filterwarnings("ignore")  # importing Ray's autoscaler
def test_the_cluster_file_keeps_the_schema_of_the_installed_ray(cluster):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    whole = fillout_defaults(cluster)
    validate_config(whole)
    whole["available_node_types"]["head"].pop("resources")
    with pytest.raises(ValidationError):
        validate_config(whole)


def test_the_head_computes_nothing_and_workers_bring_gpus_both_on_demand_and_spot(cluster):
    types = dict(cluster["available_node_types"])
    assert types.pop(cluster["head_node_type"])["resources"] == {"CPU": 0}
    assert all(worker["resources"]["GPU"] >= 1 and worker["resources"]["CPU"] >= 2 for worker in types.values())
    assert {worker["labels"]["ray.io/market-type"] for worker in types.values()} == {"on-demand", "spot"}
    for worker in types.values():
        spot = worker["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot == (worker["labels"]["ray.io/market-type"] == "spot")
        assert 0 <= worker["min_workers"] <= worker["max_workers"] <= cluster["max_workers"]


def test_the_cluster_file_names_no_machine_account_or_key():
    text = CLUSTER.read_text()
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) <= {"127.0.0.1"}
    assert not re.search(r"AKIA|ssh_private_key:|KeyName|SubnetId|sg-|arn:|\d{12}", text)


def test_calls_to_the_cluster_carry_a_token(cluster):
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
