"""Leaks: after many takes in one cluster, no actor, placement group, shared object or open file is left."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import psutil
import ray
import torch
from ray.util import placement_group_table

from longtake.actors.cluster import joined
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig
from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.render.run import render
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take

STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 2s}]}"
TAKES, QUICK_TAKES, FIRST_TAKES = 50, 12, 4
GONE_S = 20.0


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Two companies one after the other, each with half of the takes."""
    torch.set_num_threads(1)
    takes = (QUICK_TAKES if options.quick else TAKES) // 2
    with TemporaryDirectory() as folder, joined(None):
        grown = [_files_grown(Path(folder) / str(number), takes) for number in range(2)]
        return {
            "takes": 2 * takes,
            "actors_left": _settled(_actors),
            "groups_left": _settled(_groups),
            "objects_left": _settled(_objects),
            "files_left": max(grown),
        }


def _files_grown(folder: Path, takes: int) -> int:
    """Files that the driver and its actors hold after all takes, beyond those after the first ones."""
    with ActorPool(PoolConfig.of()) as pool:
        for number in range(takes):
            if number == FIRST_TAKES:
                before = _open_files(pool)
            _render(pool, folder / str(number))
        return _open_files(pool) - before


def _render(pool: ActorPool, folder: Path) -> None:
    storyboard = parse_storyboard(STORYBOARD)
    model = open_model(storyboard.model)
    take = open_take(plan_film(storyboard, model), model, Store(str(folder)), numerics(model))
    render(take, pool, ChunkPacer(2**28, take.plan.chunk_bytes))


def _open_files(pool: ActorPool) -> int:
    """Regular files, by their names; sockets and pipes are Ray's own."""
    pids = [psutil.Process().pid, *pool.pids()]
    return sum(len(psutil.Process(pid).open_files()) for pid in pids)


def _settled(count: Callable[[], int]) -> int:
    """What is left once Ray has had time to take it away."""
    until = monotonic() + GONE_S
    while (left := count()) and monotonic() < until:
        sleep(0.2)
    return left


def _actors() -> int:
    actors = import_module("ray._private.state").actors()
    return sum(actor["State"] != "DEAD" for actor in actors.values())


def _groups() -> int:
    return sum(group["state"] != "REMOVED" for group in placement_group_table().values())


def _objects() -> int:
    address = ray.get_runtime_context().gcs_address
    summary = import_module("ray._private.internal_api").memory_summary(address=address, stats_only=True)
    found = re.search(r"Plasma memory usage .*?, (\d+) objects", summary)
    assert found is not None, summary
    return int(found[1])


BENCH = Bench(
    {
        "takes": Figure("takes of two seconds that two companies rendered in one cluster"),
        "actors_left": Figure("actors that are not dead afterwards", at_most=0),
        "groups_left": Figure("placement groups that are not removed", at_most=0),
        "objects_left": Figure("objects in shared memory", at_most=0),
        "files_left": Figure("files that the driver and the actors hold beyond those after four takes", at_most=0),
    },
    measure,
    once=True,
)
