"""What Ray costs and gains: the pipeline on actors, compared with the pipeline in one process in the same run."""

import json
from collections.abc import Mapping
from datetime import datetime
from os import times
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

import torch

from longtake.actors.cluster import joined
from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.overlap import overlap
from longtake.pipeline import film
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take

LONG_CHUNKS = (
    "{{model: sounding-shapes, seed: {seed}, sampling: {{steps: {steps}}}, scenes: [{{{prompt}, duration: {n}s}}]}}"
)
"""Denoising takes nearly all of the time."""

EVEN_STAGES = (
    "{{model: sounding-shapes, seed: {seed}, sampling: {{steps: 1, guidance: 1}}, video: {{width: 128, height: 128}},"
    " scenes: [{{{prompt}, duration: {n}s}}]}}"
)
"""The stages take similar times."""


def measure(options: BenchOptions) -> Mapping[str, float]:
    """In one cluster, with one thread for each stage."""
    torch.set_num_threads(1)
    with joined(None), ActorPool(PoolConfig.of()) as pool:
        return {
            **_engine_tax(
                options,
                pool,
                num_chunks=options.pick(full=8, quick=4, smoke=1),
                pairs=options.pick(full=5, quick=3, smoke=1),
            ),
            "overlap_sleep": overlap(num_chunks=options.pick(full=40, quick=40, smoke=1)),
            "core_use": _core_use(options, pool, num_chunks=options.pick(full=60, quick=20, smoke=1)),
        }


def _take(template: str, options: BenchOptions, num_chunks: int, folder: Path) -> Take:
    steps = options.pick(full=30, quick=30, smoke=2)
    text = template.format(seed=options.seed, steps=steps, prompt="prompt: a red circle bounces", n=num_chunks)
    storyboard = parse_storyboard(text)
    model = open_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(folder)), numerics(model))


def _on_ray(take: Take, pool: ActorPool, budget_bytes: int) -> float:
    """Render on Ray. Returns the seconds until the film started."""
    called = time()
    render(take, pool, ChunkPacer(budget_bytes, take.plan.chunk_bytes))
    started = next(event for event in _events(take) if event["event"] == "film.start")
    return _time(started) - called


def _alone_s(options: BenchOptions, num_chunks: int, folder: Path) -> float:
    """Seconds of the film in this process."""
    take = _take(LONG_CHUNKS, options, num_chunks, folder)
    with EventLog(take.store) as log:
        film.render(take, log)
    return _wall_s(_events(take))


def _engine_tax(options: BenchOptions, pool: ActorPool, num_chunks: int, pairs: int) -> dict[str, float]:
    """Renders in this process and on Ray in turn, each at its fastest: a busy machine slows down any of them, and its
    speed changes within a minute."""
    alone_s, rendered = [], []
    with TemporaryDirectory() as folder:
        for pair in range(pairs):
            alone_s.append(_alone_s(options, num_chunks, Path(folder) / f"alone-{pair}"))
            together = _take(LONG_CHUNKS, options, num_chunks, Path(folder) / f"ray-{pair}")
            start_s = _on_ray(together, pool, budget_bytes=1)
            rendered.append((_wall_s(_events(together)), start_s, _first_segment(_events(together))))
    walls, starts, segments = zip(*rendered, strict=True)
    return {
        "engine_tax": min(walls) / min(alone_s),
        "start_s": max(starts),  # of the first film; the actors stay
        "chunk_s": min(alone_s) / num_chunks,
        "first_segment": min(segments),
    }


def _first_segment(events: list[dict[str, Any]]) -> float:
    """The time from the first denoise call until its segment is published, over the seconds of its three stages."""
    first = {e["event"]: e for e in reversed(events) if e.get("chunk") == 0}
    acts_s = {act: first[f"{act}.chunk"]["seconds"] for act in ("denoise", "decode", "encode")}
    called = _time(first["denoise.chunk"]) - acts_s["denoise"]
    return float((_time(first["publish.chunk"]) - called) / sum(acts_s.values()))


def _core_use(options: BenchOptions, pool: ActorPool, num_chunks: int) -> float:
    """CPU seconds of the film in one process, over the seconds of two cores while actors render it.

    Both this process and the actors have rendered a film before.
    """
    with TemporaryDirectory() as folder:
        alone = _take(EVEN_STAGES, options, num_chunks, Path(folder) / "alone")
        before = times()
        film.render(alone)
        cpu_s = times().user + times().system - before.user - before.system
        together = _take(EVEN_STAGES, options, num_chunks, Path(folder) / "ray")
        _on_ray(together, pool, budget_bytes=2**28)
        return cpu_s / (2 * _wall_s(_events(together)))


def _events(take: Take) -> list[dict[str, Any]]:
    return [json.loads(line) for line in take.store.get("events.jsonl").splitlines()]


def _time(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _wall_s(events: list[dict[str, Any]]) -> float:
    ends = {event["event"]: _time(event) for event in events if event["event"] in ("film.start", "film.done")}
    return ends["film.done"] - ends["film.start"]
