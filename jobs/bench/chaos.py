"""Chaos: ranks, stages, nodes and drivers are killed, stopped, terminated or drained at seeded moments of a render on a
cluster of three nodes. Every film must be completed and equal the undisturbed one bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any, Self

import torch
from ray.cluster_utils import Cluster

from longtake.actors.address import LOCAL
from longtake.actors.cluster import OWN_CLUSTER
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.resume import same_takes
from longtake.pipeline import film
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.store import Store
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take

STORYBOARD = """
model: tiny
sampling: {{steps: {steps}}}
scenes:
  - {{prompt: a red circle bounces fast, duration: {first}s}}
  - {{prompt: a blue square rests, duration: 8s}}
  - {{prompt: a green triangle glides, duration: 6.5s, transition: cut}}
"""
NODE_CPUS = 4
DEADLINE_S = 8
FILM_S = 900.0
LATE_S = 5.0
TERMINATED, REFUSED = 143, 1
FAULTS = (
    *("rank 0", "rank 1", "stopped rank", "decode", "stopped encode", "publish"),
    *("node", "late node", "drained node", "driver", "terminated driver", "terminated group", "second driver"),
)
"""A stopped process (SIGSTOP) exists and does not answer. A late node joins `LATE_S` after the one that it replaces has
gone, and a drained one goes `LATE_S` after its notice. A second driver of the film is to be refused."""

QUICK_FAULTS = ("rank 1", "stopped encode", "publish", "driver", "terminated group", "drained node")
SMOKE_FAULTS = ("publish",)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """One undisturbed film, then one film for each seed, with all faults in an order and at moments of that seed.

    A smoke run has one rank, so that its undisturbed film can be rendered in this process, and each driver of it starts
    a cluster of its own.
    """
    torch.set_num_threads(1)
    degrees = Degrees(ulysses=options.pick(full=2, quick=2, smoke=1))
    seeds = options.pick(full=3, quick=1, smoke=1)
    faults = options.pick(full=FAULTS, quick=QUICK_FAULTS, smoke=SMOKE_FAULTS)
    num_chunks, num_nodes = options.pick(full=62, quick=30, smoke=16), options.pick(full=2, quick=2, smoke=0)
    steps = options.pick(full=24, quick=24, smoke=12)
    with (
        TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        LocalCluster(Path(folder), (num_chunks, steps), num_nodes, degrees) as cluster,
    ):
        undisturbed = cluster.undisturbed()
        renders = [
            cluster.render(f"seed-{seed}", _moments(Random(1000 * options.seed + seed), faults, num_chunks))
            for seed in range(seeds)
        ]
        identical = [same_takes(undisturbed, render.take) for render in renders]
    struck = [fault for render in renders for fault in render.struck]
    return {
        "faults": len(struck),
        "films_identical": sum(identical) / len(identical),
        "max_chunks_lost": max((fault.chunks_lost for fault in struck), default=0),
        "restart_s": median(fault.restart_s for fault in struck),
        "longest_restart_s": max(fault.restart_s for fault in struck),
    }


def _moments(random: Random, faults: tuple[str, ...], num_chunks: int) -> dict[int, str]:
    """The chunk that is about to be published when each fault happens, with two chunks or more between faults."""
    chosen = sorted(random.sample(range(1, num_chunks // 2 - 1), len(faults)))
    return dict(zip((2 * chunk for chunk in chosen), random.sample(faults, len(faults)), strict=True))


@dataclass(frozen=True)
class Struck:
    """One fault and what it cost."""

    fault: str
    chunks_lost: int
    restart_s: float


@dataclass
class Render:
    """One film and its faults."""

    take: Take
    struck: list[Struck] = field(default_factory=list)


class LocalCluster:
    """A Ray cluster on this machine, whose head computes nothing. Each film has a driver process of its own.

    Args:
        size: chunks of a film, and steps of each.
        num_nodes: besides the head; with 0, each driver starts a cluster of its own.
    """

    def __init__(self, root: Path, size: tuple[int, int], num_nodes: int, degrees: Degrees) -> None:
        self._root, self._num_nodes, self._degrees = root, num_nodes, degrees
        num_chunks, steps = size
        self._storyboard = STORYBOARD.format(first=num_chunks - 15, steps=steps)
        (root / "film.yaml").write_text(self._storyboard)

    def __enter__(self) -> Self:
        if not self._num_nodes:
            return self
        os.environ.update({name: os.environ.get(name, value) for name, value in OWN_CLUSTER.items()})
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(self._root / "ray")}
        config = {"prestart_worker_first_driver": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": config})
        self._nodes: dict[str, Any] = {}
        for _ in range(self._num_nodes):
            self._add_node()
        return self

    def __exit__(self, *_: object) -> None:
        if self._num_nodes:
            self._cluster.shutdown()

    def _add_node(self) -> None:
        node = self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=128 * 2**20)
        self._nodes[node.node_id] = node

    def _remove_node(self, node: str) -> None:
        self._cluster.remove_node(self._nodes.pop(node), allow_graceful=False)

    def _drain(self, node: str) -> None:
        """Give the notice of a spot machine that is about to go."""
        command = ["drain-node", "--address", self._cluster.address, "--node-id", node, "--reason-message", "spot"]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", str(int(LATE_S))]
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *command], check=True, capture_output=True)

    def undisturbed(self) -> Take:
        """Render the film without faults: by a driver of its own if ranks share it, or else in this process."""
        if self._degrees.ranks > 1:
            return self.render("undisturbed", {}).take
        take = self._take(self._root / "undisturbed")
        film.render(take)
        return take

    def render(self, name: str, moments: Mapping[int, str]) -> Render:
        """Render into the folder `name`.

        Args:
            moments: faults by the number of published chunks at which they happen.
        """
        out, until = self._root / name, monotonic() + FILM_S
        render, left, driver = Render(self._take(out)), dict(sorted(moments.items())), self._start(out)
        try:
            while (code := driver.poll()) is None or left:
                if monotonic() > until:
                    raise TimeoutError(f"{name} was not done after {FILM_S:g} s; faults left: {left}")
                if code is not None:
                    raise RuntimeError(f"the driver of {name} exited with {code} before these faults: {left}")
                events, at = read_events(out), next(iter(left), None)
                if at is not None and published(events) >= at:
                    fault = left.pop(at)
                    before, struck_at = len(events), monotonic()
                    driver = self._strike(fault, events, driver, out)
                    self._wait_for(out, at + 2, driver, until)
                    render.struck.append(
                        Struck(fault, denoised_again(read_events(out), before), monotonic() - struck_at)
                    )
                    print(f"{name}: {fault} at chunk {at}: {render.struck[-1]}", file=sys.stderr, flush=True)
                sleep(0.02)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
        if code != 0:
            raise RuntimeError(f"the driver of {name} exited with {code}: {(out / 'driver.log').read_text()[-2000:]}")
        return render

    def _wait_for(self, out: Path, chunks: int, driver: subprocess.Popen[bytes], until: float) -> None:
        """Wait until so many chunks are published, the driver has exited or time is up."""
        while published(read_events(out)) < chunks and driver.poll() is None and monotonic() < until:
            sleep(0.02)

    def _strike(
        self, fault: str, events: list[dict[str, Any]], driver: subprocess.Popen[bytes], out: Path
    ) -> subprocess.Popen[bytes]:
        """Cause the fault. Returns the driver that renders from then on."""
        ready = {event["act"]: event for event in events if event["event"] == "actor.ready"}
        how = signal.SIGSTOP if fault.startswith("stopped") else signal.SIGKILL
        match fault.removeprefix("stopped "):
            case "driver":
                driver.kill()
                driver.wait()
                return self._start(out)
            case "terminated driver" | "terminated group":
                (os.killpg if fault == "terminated group" else os.kill)(driver.pid, signal.SIGTERM)
                if (code := driver.wait()) != TERMINATED:
                    raise RuntimeError(f"a {fault} exited with {code}, not {TERMINATED}")
                return self._start(out)
            case "second driver":
                if (code := self._start(out).wait()) != REFUSED:
                    raise RuntimeError(f"a {fault} exited with {code}, not {REFUSED}")
            case "node":
                self._add_node()
                self._remove_node(ready["denoise"]["nodes"][0])
            case "late node":
                self._remove_node(ready["denoise"]["nodes"][0])
                sleep(LATE_S)
                self._add_node()
            case "drained node":
                self._add_node()
                self._drain(ready["denoise"]["nodes"][0])
                sleep(LATE_S)
                self._remove_node(ready["denoise"]["nodes"][0])
            case "rank" | "rank 0":
                os.kill(ready["denoise"]["pids"][0], how)
            case "rank 1":
                os.kill(ready["denoise"]["pids"][1], how)
            case stage:
                os.kill(ready[stage]["pids"][0], how)
        return driver

    def _start(self, out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "longtake.jobs.render", str(self._root / "film.yaml"), "-o", str(out)]
        command += ["--address", self._cluster.address if self._num_nodes else LOCAL]
        command += ["--ulysses", str(self._degrees.ulysses), "--budget-mib", "1"]
        out.mkdir(exist_ok=True)
        with (out / "driver.log").open("ab") as log:
            command += ["--chunk-deadline", str(DEADLINE_S)]
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _take(self, out: Path) -> Take:
        storyboard = parse_storyboard(self._storyboard)
        model = open_model(storyboard.model)
        return open_take(plan_film(storyboard, model), model, Store(str(out)), numerics(model, self._degrees))


def read_events(out: Path) -> list[dict[str, Any]]:
    """The complete lines of a take's event log."""
    path = out / "events.jsonl"
    if not path.exists():
        return []
    events = []
    for line in path.read_text().splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # cut off by a fault, or not yet complete
    return events


def published(events: list[dict[str, Any]]) -> int:
    """Number of published chunks."""
    return max((event["chunk"] + 1 for event in events if event["event"] == "publish.chunk"), default=0)


def denoised_again(events: list[dict[str, Any]], before: int) -> int:
    """Number of chunks denoised both among the first `before` events and after them."""
    denoised = [
        {e["chunk"] for e in part if e["event"] == "denoise.chunk"} for part in (events[:before], events[before:])
    ]
    return len(denoised[0] & denoised[1])
