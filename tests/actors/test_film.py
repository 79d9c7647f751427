"""The pipeline on Ray: the same bits as in one process, also when actors die, hang or raise."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

import pytest
import ray
import torch

from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Timeouts
from longtake.pipeline import film
from longtake.pipeline.errors import JournalError, PoisonError, StartError
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


def pacer_for(take):
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
    """A pacer that calls `then` once a chunk has landed."""

    def __init__(self, take, chunk, then, budget_bytes=2**28):
        super().__init__(budget_bytes, take.plan.chunk_bytes)
        self._chunk, self._then = chunk, then

    def _tick(self):
        super()._tick()
        if self._then is not None and self.next_chunk > self._chunk:
            then, self._then = self._then, None
            then()


@pytest.fixture
def pool(actor_pool):
    return actor_pool


def test_actors_render_the_same_bits_as_one_process(alone, pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, pacer_for(take))
    assert journal_bytes(take) == journal_bytes(alone)
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")


@pytest.mark.parametrize("act", ["embed", "denoise", "decode", "encode", "publish"])
def test_an_actor_that_dies_is_replaced_and_no_bit_differs(act, alone, pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, Watched(take, 2, lambda: ray.kill(pool.stage(act).actors[0])))
    assert journal_bytes(take) == journal_bytes(alone)
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")
    replaced = [event["act"] for event in events(take) if event["event"] == "actor.replaced"]
    assert replaced == [act]
    denoised = [event["chunk"] for event in events(take) if event["event"] == "denoise.chunk"]
    assert len(denoised) <= len(set(denoised)) + 1


@pytest.mark.parametrize("act", ["denoise", "encode"])
def test_an_actor_that_hangs_is_replaced(act, alone, pool, tmp_path):
    take = take_at(tmp_path)

    def hang():
        group = pool.stage(act)
        os.kill(ray.get(group.actors[0].__ray_call__.remote(lambda _: os.getpid())), signal.SIGSTOP)

    render(take, pool, Watched(take, 2, hang, budget_bytes=1))
    assert journal_bytes(take) == journal_bytes(alone)
    assert [event["act"] for event in events(take) if event["event"] == "actor.replaced"] == [act]


def test_an_event_log_actor_that_dies_continues_its_log(pool, tmp_path):
    take = take_at(tmp_path)
    render(take, pool, Watched(take, 2, lambda: ray.kill(pool.event_log, no_restart=False)))
    names = [event["event"] for event in events(take)]
    assert names[0] == "road.start"
    assert names[-1] == "film.done"


def test_a_chunk_that_keeps_failing_ends_the_take_and_keeps_finished_chunks(alone, pool, tmp_path):
    take = take_at(tmp_path)
    chunk = f"{take.journal._keys.latents[3].key}"
    with (
        patched_in(pool.stage("denoise"), "keep_latents", chunk),
        pytest.raises(
            PoisonError, match=r"chunk 3 failed 3 times in a row, the last time with OSError: the disk is full"
        ),
    ):
        render(take, pool, pacer_for(take))
    kept = take.journal.kept("segments")
    assert kept[:3] == [0, 1, 2]
    assert 3 not in kept
    assert not take.store.exists("film.mp4")
    assert events(take)[-1]["event"] == "road.failed"
    render(take, pool, pacer_for(take))
    assert journal_bytes(take) == journal_bytes(alone)
    assert take.store.exists("film.mp4")


@contextmanager
def patched_in(group, method, key):
    """Have the journal raise at one chunk, in the actor of `group`."""

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


def test_a_driver_that_died_is_followed_by_one_that_resumes(alone, pool, tmp_path):
    take = take_at(tmp_path)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(take, pool, Watched(take, 3, stop))
    kept = take.journal.num_kept("latents")
    assert kept >= 4
    render(take, pool, pacer_for(take))
    assert journal_bytes(take) == journal_bytes(alone)
    _, _, resumed = take.store.get("events.jsonl").decode().rpartition('"road.start"')
    assert not any(f'"denoise.chunk", "chunk": {index},' in resumed for index in range(kept))


def test_an_actor_that_would_compute_other_bits_refuses_to_start(pool, tmp_path):
    take = take_at(tmp_path)
    other = replace(take, numerics={**take.numerics, "torch": "1.0"})
    with pytest.raises(JournalError, match=r"would render other bits: torch is .*, not 1\.0"):
        render(other, pool, pacer_for(take))


def test_the_event_log_actor_needs_no_torch():
    """Where it is not forked from a process that has imported everything, it starts the earlier for it."""
    script = "import sys, longtake.actors.event_log_actor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_constructor_that_always_raises_ends_the_start_with_its_error():
    started = monotonic()
    config = PoolConfig.of(timeouts=Timeouts(start=120, exchange="soon", heartbeat=5), acts=("denoise",))
    with (
        ActorPool(config) as pool,
        pytest.raises(StartError, match=r"the same error twice: TypeError: unsupported type for timedelta"),
    ):
        pool.start()
    assert monotonic() - started < 60


def test_a_stage_that_can_never_be_built_again_ends_the_take_with_its_error(alone, pool, tmp_path):
    take, hands = take_at(tmp_path), tmp_path / "journal" / "hands.lock"

    def strike():
        ray.kill(pool.stage("embed").actors[0])
        hands.rename(tmp_path / "aside")
        hands.mkdir()

    started = monotonic()
    with pytest.raises(StartError, match=r"the same error twice: IsADirectoryError"):
        render(take, pool, Watched(take, 2, strike))
    assert monotonic() - started < 40
    hands.rmdir()
    render(take, pool, pacer_for(take))
    assert journal_bytes(take) == journal_bytes(alone)
