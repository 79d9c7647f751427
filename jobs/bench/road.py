"""What Ray costs and what it gains: the road on actors beside the road in one process, in the same run."""

import json
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from itertools import count
from os import times
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep, time
from typing import Any

import ray
import torch

from longtake.actors.cluster import joined
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig
from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.render.run import render
from longtake.pipeline import film
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take

SLEEP_S = 0.5
LONG_CHUNKS = (
    "{{model: sounding-shapes, seed: {seed}, sampling: {{steps: 30}}, scenes: [{{{prompt}, duration: {n}s}}]}}"
)
EVEN_ACTS = (
    "{{model: sounding-shapes, seed: {seed}, sampling: {{steps: 1, guidance: 1}}, video: {{width: 128, height: 128}},"
    " scenes: [{{{prompt}, duration: {n}s}}]}}"
)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """One cluster of our own; one thread for every act."""
    torch.set_num_threads(1)
    with joined(None):
        tax = _engine_tax(options, num_chunks=4 if options.quick else 12)
        return {
            **tax,
            "overlap_sleep": _overlap_sleep(num_chunks=40),
            "core_use": _core_use(options, num_chunks=20 if options.quick else 60),
        }


def _take(storyboard: str, options: BenchOptions, num_chunks: int, folder: Path) -> Take:
    text = storyboard.format(seed=options.seed, prompt="prompt: a red circle bounces", n=num_chunks)
    storyboard = parse_storyboard(text)
    model = open_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(folder)), numerics(model))


def _on_ray(take: Take, budget_bytes: int) -> float:
    """Render; seconds until the film could start."""
    called = time()
    with ActorPool(PoolConfig.of()) as pool:
        render(take, pool, ChunkPacer(budget_bytes, take.plan.chunk_bytes))
    started = next(event for event in _events(take) if event["event"] == "film.start")
    return _time(started) - called


def _alone_s(options: BenchOptions, num_chunks: int, folder: Path) -> float:
    """Seconds of the road in this process."""
    take = _take(LONG_CHUNKS, options, num_chunks, folder)
    with EventLog(take.store) as log:
        film.render(take, log)
    return _wall_s(_events(take))


def _engine_tax(options: BenchOptions, num_chunks: int) -> dict[str, float]:
    """The Ray road between two renders in this process, for machines get faster and slower within a minute."""
    with TemporaryDirectory() as folder:
        before_s = _alone_s(options, num_chunks, Path(folder) / "before")
        together = _take(LONG_CHUNKS, options, num_chunks, Path(folder) / "ray")
        start_s = _on_ray(together, budget_bytes=1)
        alone_s = (before_s + _alone_s(options, num_chunks, Path(folder) / "after")) / 2
        events = _events(together)
        first = {e["event"]: e for e in reversed(events) if e.get("chunk") == 0}
        acts_s = {act: first[f"{act}.chunk"]["seconds"] for act in ("denoise", "decode", "encode")}
        called = _time(first["denoise.chunk"]) - acts_s["denoise"]
        return {
            "engine_tax": _wall_s(events) / alone_s,
            "start_s": start_s,
            "chunk_s": alone_s / num_chunks,
            "first_segment": (_time(first["publish.chunk"]) - called) / sum(acts_s.values()),
        }


def _core_use(options: BenchOptions, num_chunks: int) -> float:
    """CPU seconds that the film takes in one process, over what two cores offer while actors render it."""
    with TemporaryDirectory() as folder:
        alone = _take(EVEN_ACTS, options, num_chunks, Path(folder) / "alone")
        before = times()
        film.render(alone)
        cpu_s = times().user + times().system - before.user - before.system
        together = _take(EVEN_ACTS, options, num_chunks, Path(folder) / "ray")
        _on_ray(together, budget_bytes=2**28)
        return cpu_s / (2 * _wall_s(_events(together)))


@ray.remote
class _Sleeper:
    """An act that takes its time and nothing else."""

    def run(self, *_: Any) -> None:
        sleep(SLEEP_S)


def _overlap_sleep(num_chunks: int) -> float:
    acts = [_Sleeper.options(num_cpus=0).remote() for _ in range(3)]
    ray.get([act.__ray_ready__.remote() for act in acts])
    spans = [_second(index) for index, _ in zip(count(), range(num_chunks), strict=False)]
    pacer = ChunkPacer(4, lambda _: 1)
    started = perf_counter()
    for chunk in pacer.paced(spans):
        passed = None
        for act in acts:
            passed = act.run.remote(passed)
        pacer.follow(chunk, passed)
    wall_s = perf_counter() - started
    for act in acts:
        ray.kill(act)
    return wall_s / (num_chunks * SLEEP_S)


def _second(index: int) -> ChunkSpan:
    one = range(index, index + 1)
    return ChunkSpan(index, 0, 0, 0, one, one, one, one, Fraction(index), Fraction(index + 1), False)


def _events(take: Take) -> list[dict[str, Any]]:
    return [json.loads(line) for line in take.store.get("events.jsonl").splitlines()]


def _time(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _wall_s(events: list[dict[str, Any]]) -> float:
    ends = {event["event"]: _time(event) for event in events if event["event"] in ("film.start", "film.done")}
    return ends["film.done"] - ends["film.start"]


BENCH = Bench(
    {
        "engine_tax": Figure("wall of the Ray road, one chunk in flight, over the road in one process", at_most=1.05),
        "start_s": Figure("seconds until all actors stand ready, not part of the tax"),
        "chunk_s": Figure("seconds of a chunk in one process, for the tax"),
        "overlap_sleep": Figure("three acts that sleep 0.5 s: wall over the busiest act", at_most=1.08),
        "core_use": Figure(
            "CPU seconds in one process over 2 x wall of the Ray road, acts of even weight", at_least=0.75
        ),
        "first_segment": Figure("first denoise call until its segment is listed, over its three acts", at_most=1.2),
    },
    measure,
)
