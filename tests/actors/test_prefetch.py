"""Scenes between cuts, rendered in parallel by two gangs: the same film as in sequence."""

import json

import pytest
import ray
import torch

from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Timeouts
from longtake.actors.rendering import GangSpec
from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.load import load_model

STORYBOARD = """
model: tiny
parallel_scenes: true
sampling: {steps: 4}
scenes:
  - {prompt: a red circle bounces fast, duration: 6s}
  - {prompt: a blue square rests, duration: 4s, transition: cut}
  - {prompt: a yellow square rests, duration: 2s}
  - {prompt: a green triangle glides, duration: 3s, transition: cut}
"""


def take_at(path):
    storyboard = parse_storyboard(STORYBOARD)
    model = load_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(path)), numerics(model))


@pytest.mark.usefixtures("ray_cluster")
def test_two_gangs_render_scenes_in_parallel_and_the_film_is_the_same(tmp_path):
    torch.set_num_threads(1)
    alone, together = take_at(tmp_path / "alone"), take_at(tmp_path / "together")
    film.render(alone)
    pacer = ChunkPacer(1, together.plan.chunk_bytes)
    follow = pacer.follow

    def follow_until_the_second_gang_dies(chunk, landed):
        follow(chunk, landed)
        if chunk.index == 2:
            pacer.follow = follow
            ray.kill(pool.gangs[1].actors[0])

    pacer.follow = follow_until_the_second_gang_dies
    with ActorPool(PoolConfig.of(gangs=2, timeouts=Timeouts(start=120, chunk=60, heartbeat=5))) as pool:
        render(together, pool, pacer)
    assert together.store.get("film.mp4") == alone.store.get("film.mp4")
    events = [json.loads(line) for line in together.store.get("events.jsonl").splitlines()]
    denoised = [event["chunk"] for event in events if event["event"] == "denoise.chunk"]
    assert set(denoised) == set(range(15))
    assert len(denoised) <= 16
    assert denoised != sorted(denoised)
    assert [event["act"] for event in events if event["event"] == "actor.replaced"] == ["denoise 2"]


def test_gangs_are_counted_by_sections_and_refused_in_sequence():
    model = load_model("tiny")
    parallel = plan_film(parse_storyboard(STORYBOARD), model)
    assert GangSpec().count(parallel) == 2
    assert GangSpec(gangs=8).count(parallel) == 3
    sequence = plan_film(parse_storyboard(STORYBOARD, ["parallel_scenes=false"]), model)
    assert GangSpec().count(sequence) == 1
    with pytest.raises(SpecError, match=r"--gangs is 2, but the storyboard renders its scenes in sequence"):
        GangSpec(gangs=2).count(sequence)
