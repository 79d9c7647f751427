"""What a cluster can never hold is refused at once; what it may hold later is waited for, with a reason."""

from itertools import count
from time import monotonic

import pytest
from ray.exceptions import GetTimeoutError
from typing_extensions import override

from longtake.actors.capacity import shortage
from longtake.actors.cluster import cluster_note, joined, joins
from longtake.actors.nodes import NODE_GROUP
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Resources
from longtake.jobs.options import nodes_s
from longtake.pipeline.errors import CapacityError, SpecError
from longtake.pipeline.observe import Observer

ONE_RANK = Resources.of(threads=2)
TWO_GPUS = Resources.of(threads=1, ranks=2, device="cuda")


def node(cpus, gpus=0, alive=True, grows=False):
    labels = {NODE_GROUP: "workers"} if grows else {}
    return {"Alive": alive, "Labels": labels, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("wanted", "nodes"), [(ONE_RANK, [node(4)]), (ONE_RANK, [node(2), node(1)]), (TWO_GPUS, [node(8, 1), node(8, 1)])]
)
def test_a_cluster_that_is_large_enough_lacks_nothing(wanted, nodes):
    assert shortage(wanted, nodes) is None


@pytest.mark.parametrize(
    ("wanted", "nodes", "message"),
    [
        (ONE_RANK, [node(1)], "the actors ask for 3 CPUs, and the cluster has 1 CPUs; use fewer"),
        (ONE_RANK, [node(1), node(1), node(1)], "an actor asks for 2 CPUs, and no node of the cluster has as many"),
        (ONE_RANK, [node(8, alive=False), node(1)], "the cluster has 1 CPUs"),
        (TWO_GPUS, [node(8)], "and 1.6 GPUs, and the cluster has 8 CPUs; .*or --device cpu"),
    ],
)
def test_what_a_cluster_can_never_hold_is_refused(wanted, nodes, message):
    with pytest.raises(CapacityError, match=message):
        shortage(wanted, nodes)


def test_a_cluster_that_may_grow_is_waited_for():
    assert "waiting for more nodes" in shortage(ONE_RANK, [node(0, grows=True)])


class Waits(Observer):
    def __init__(self):
        self.reasons = []

    @override
    def event(self, name, **fields):
        if name == "cluster.wait":
            self.reasons.append(fields["reason"])


def test_nodes_that_come_late_are_waited_for_and_what_is_missing_is_said_once(monkeypatch):
    calls, clusters = count(), [node(0, grows=True)]

    def get(_, timeout):
        assert timeout <= 5
        clusters[:] = [node(min(2, next(calls)), grows=True)]
        if clusters[0]["Resources"]["CPU"] < 2 or next(calls) < 6:
            raise GetTimeoutError

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.nodes", lambda: clusters)
    pool = ActorPool(PoolConfig.of(threads=2))
    pool.observer = waits = Waits()
    pool._await([], monotonic() + 600)
    has = [reason.partition("has ")[2] for reason in waits.reasons]
    assert has == [f"{cpus} CPUs; waiting for more nodes" for cpus in (0, 1, 2)]
    calls = count()
    with pytest.raises(GetTimeoutError):
        pool._await([], monotonic() + 1)


@pytest.mark.parametrize("text", ["ten", "10", "48f", ""])
def test_a_time_to_wait_has_a_unit(text):
    assert nodes_s("10m") == 600
    with pytest.raises(SpecError, match=f"--wait-for-nodes is {text}; write a number with its unit"):
        nodes_s(text)


@pytest.mark.parametrize(
    ("address", "environment", "joined"),
    [
        (None, None, False),
        ("auto", None, True),
        ("local", "10.0.0.1:6379", False),
        (None, " 10.0.0.1:6379 ", True),
        (" local ", None, False),
        ("  ", " ", False),
        (None, " local\n", False),
    ],
)
def test_a_cluster_is_joined_only_on_request(monkeypatch, address, environment, joined):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_JOB_ID", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert joins(address) == joined
    told = cluster_note(address)
    assert (told is not None) == (joined and address is None), "what the environment decides is printed"
    assert told is None or "RAY_ADDRESS is 10.0.0.1:6379: joining that cluster" in told


def test_a_cluster_of_ones_own_is_never_one_that_happens_to_run_here(monkeypatch):
    calls = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *arguments, **options: calls.append((arguments, options)))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    for name in ("RAY_JOB_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with joined(None, num_cpus=300):
        pass
    ((arguments, options),) = calls
    assert (arguments, options["num_cpus"]) == (("local",), 300)


def test_an_address_where_no_cluster_answers_is_named(monkeypatch):
    def refuse(**_):
        raise ConnectionError("Failed to connect to GCS.\nA long explanation")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("longtake.actors.cluster.reachable", str)
    with pytest.raises(SpecError, match=r"--address is 10\.0\.0\.1:6379, and no Ray cluster can be joined there: Fail"):
        joined("10.0.0.1:6379").__enter__()
