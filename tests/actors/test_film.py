"""The road on Ray: the same bits as in one process, and what happens when an actor dies."""

import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import ray
import torch

from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Timeouts
from longtake.jobs.render.run import render
from longtake.pipeline import film
from longtake.pipeline.errors import JournalError, PoisonError
from longtake.pipeline.journal.journal import latents_to_bytes, segment_to_bytes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.load import load_model

STORYBOARD = """
model: tiny
sampling: {steps: 2}
scenes:
  - {prompt: a red circle bounces fast, duration: 4.5s}
  - {prompt: a blue square rests, duration: 2s}
  - {prompt: a green triangle glides, duration: 37f, transition: cut}
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def take_at(path):
    storyboard = parse_storyboard(STORYBOARD)
    model = load_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(path)), numerics(model))


def conductor_for(take):
    return ChunkPacer(2**28, take.plan.chunk_bytes)


def journal_bytes(take):
    return [
        (latents_to_bytes(take.journal.latents(chunk)), segment_to_bytes(take.journal.segment(chunk)))
        for chunk in take.plan.chunks
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    torch.set_num_threads(1)
    take = take_at(tmp_path_factory.mktemp("alone"))
    film.render(take)
    return take


def events(take):
    return [json.loads(line) for line in take.store.get("events.jsonl").decode().splitlines()]


class Watched(ChunkPacer):
    """Does something once a chunk has landed."""

    def __init__(self, take, chunk, then, budget_bytes=2**28):
        super().__init__(budget_bytes, take.plan.chunk_bytes)
        self._chunk, self._then = chunk, then

    def _tick(self):
        super()._tick()
        if self._then is not None and self.next_chunk > self._chunk:
            then, self._then = self._then, None
            then()


@pytest.fixture(scope="module")
def pool(ray_cluster):  # noqa: ARG001 (it stands as long as this)
    timeouts = Timeouts(start=60, exchange=5, chunk=8, heartbeat=5, back_off=0.1)
    with ActorPool(PoolConfig.of(timeouts=timeouts)) as pool:
        yield pool


def test_actors_render_the_same_bits_as_one_process(alone, pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, conductor_for(take))
    assert journal_bytes(take) == journal_bytes(alone)
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")


@pytest.mark.parametrize("act", ["embed", "denoise", "decode", "encode", "publish"])
def test_an_actor_that_dies_is_replaced_and_no_bit_differs(act, alone, pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, Watched(take, 2, lambda: ray.kill(getattr(pool, act).actors[0])))
    assert journal_bytes(take) == journal_bytes(alone)
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")
    replaced = [event["act"] for event in events(take) if event["event"] == "actor.replaced"]
    assert replaced == [act]
    denoised = [event["chunk"] for event in events(take) if event["event"] == "denoise.chunk"]
    assert len(denoised) <= len(set(denoised)) + 1


@pytest.mark.parametrize("act", ["denoise", "encode"])
def test_an_actor_that_is_wedged_is_replaced(act, alone, pool, tmp_path):
    take = take_at(tmp_path)

    def wedge():
        group = getattr(pool, act)
        os.kill(ray.get(group.actors[0].__ray_call__.remote(lambda _: os.getpid())), signal.SIGSTOP)

    render(take, pool, Watched(take, 2, wedge, budget_bytes=1))
    assert journal_bytes(take) == journal_bytes(alone)
    assert [event["act"] for event in events(take) if event["event"] == "actor.replaced"] == [act]


def test_a_scribe_that_dies_goes_on_with_its_log(pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, Watched(take, 2, lambda: ray.kill(pool.event_log, no_restart=False)))
    names = [event["event"] for event in events(take)]
    assert names[0] == "road.start"
    assert names[-1] == "film.done"


def test_a_chunk_that_fails_again_and_again_ends_the_take_and_keeps_what_is_finished(pool, tmp_path):
    take = take_at(tmp_path)
    chunk = f"{take.journal._keys.latents[3].key}"
    with (
        patched_in(pool.denoise, "keep_latents", chunk),
        pytest.raises(
            PoisonError, match=r"chunk 3 failed 3 times in a row, the last time with OSError: the disk is full"
        ),
    ):
        render(take, pool, conductor_for(take))
    assert take.journal.num_kept("segments") == 3
    assert not take.store.exists("film.mp4")
    assert events(take)[-1]["event"] == "road.failed"
    render(take, pool, conductor_for(take))
    assert take.store.exists("film.mp4")


@contextmanager
def patched_in(group, method, key):
    """Have the journal raise at one chunk, in the actor of `post`."""

    def break_it(_):
        from longtake.pipeline.journal.journal import Journal

        def broken(self, latents):
            if self._keys.latents[latents.span.index].key == key:
                raise OSError("the disk is full")
            return whole(self, latents)

        whole = getattr(Journal, method)
        setattr(Journal, method, broken)
        Journal.mended = lambda: setattr(Journal, method, whole)

    def mend_it(_):
        from longtake.pipeline.journal.journal import Journal

        Journal.mended()

    ray.get(group.actors[0].__ray_call__.remote(break_it))
    yield
    ray.get(group.actors[0].__ray_call__.remote(mend_it))


def test_a_driver_that_died_is_followed_by_one_that_goes_on(alone, pool, tmp_path):
    take = take_at(tmp_path)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(take, pool, Watched(take, 3, stop))
    kept = take.journal.num_kept("latents")
    assert kept >= 4
    render(take, pool, conductor_for(take))
    assert journal_bytes(take) == journal_bytes(alone)
    _, _, resumed = take.store.get("events.jsonl").decode().rpartition('"road.start"')
    assert not any(f'"denoise.chunk", "chunk": {index},' in resumed for index in range(kept))


def test_an_actor_that_would_compute_other_bits_refuses_to_start(pool, tmp_path):
    take = take_at(tmp_path)
    other = replace(take, numerics={**take.numerics, "torch": "1.0"})
    with pytest.raises(JournalError, match=r"would render other bits: torch is .*, not 1\.0"):
        render(other, pool, conductor_for(take))


def test_the_scribe_writes_what_it_hears_without_torch(pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, conductor_for(take))
    loaded = ray.get(pool.event_log.__ray_call__.remote(lambda _: set(sys.modules)))
    assert "torch" not in loaded
    assert "longtake.pipeline.journal.event_log" in loaded
    assert '"road.start"' in (tmp_path / "events.jsonl").read_text()
