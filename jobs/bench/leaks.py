"""Leaks: after many takes in one cluster, no actor, placement group, shared object or open file is left over."""

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
from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig
from longtake.jobs.bench.figures import BenchOptions
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take

STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 2s}]}"


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Render with one pool of actors after another in one cluster, then count what is left."""
    torch.set_num_threads(1)
    pools, takes = options.pick(full=2, quick=2, smoke=1), options.pick(full=25, quick=6, smoke=2)
    warm, wait_s = options.pick(full=4, quick=4, smoke=1), options.pick(full=20.0, quick=20.0, smoke=0.2)
    with TemporaryDirectory() as folder, joined(None):
        grown = [_files_grown(Path(folder) / str(number), takes, warm) for number in range(pools)]
        return {
            "takes": pools * takes,
            "actors_left": _settled(_actors, wait_s),
            "groups_left": _settled(_groups, wait_s),
            "objects_left": _settled(_objects, wait_s),
            "files_left": max(grown),
        }


def _files_grown(folder: Path, takes: int, warm: int) -> int:
    """Open files of the driver and its actors after all takes, less those after the first `warm`."""
    with ActorPool(PoolConfig.of()) as pool:
        for number in range(warm):
            _render(pool, folder / str(number))
        before = _open_files(pool)
        for number in range(warm, takes):
            _render(pool, folder / str(number))
        return _open_files(pool) - before


def _render(pool: ActorPool, folder: Path) -> None:
    storyboard = parse_storyboard(STORYBOARD)
    model = open_model(storyboard.model)
    take = open_take(plan_film(storyboard, model), model, Store(str(folder)), numerics(model))
    render(take, pool, ChunkPacer(2**28, take.plan.chunk_bytes))


def _open_files(pool: ActorPool) -> int:
    """Open regular files; sockets and pipes belong to Ray."""
    pids = [psutil.Process().pid, *pool.pids()]
    return sum(len(psutil.Process(pid).open_files()) for pid in pids)


def _settled(count: Callable[[], int], wait_s: float) -> int:
    """The count once it is 0, or after `wait_s`, since Ray removes things in the background."""
    until = monotonic() + wait_s
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
