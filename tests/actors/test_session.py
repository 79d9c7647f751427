"""Render sessions: actors that a front end holds for one take after another."""

from threading import Thread

import pytest
import torch

from longtake.actors.pool_config import Timeouts
from longtake.actors.session import RenderSession, SessionOptions
from longtake.pipeline import film
from longtake.pipeline.journal.journal import segment_to_bytes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.segment_feed import SegmentFeed
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take

STORYBOARD = """
model: tiny
sampling: {steps: 1}
scenes: [{prompt: a red circle bounces, duration: 4s}]
output: {hls: false}
"""
MODEL = EmbeddedModel.untrained(TINY)
OPTIONS = SessionOptions(timeouts=Timeouts(start=120, chunk=30, heartbeat=5), budget_bytes=1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def take_at(path, *overrides):
    return open_take(
        plan_film(parse_storyboard(STORYBOARD, overrides), MODEL), MODEL, Store(str(path)), numerics(MODEL)
    )


class Segments(SegmentFeed):
    """Collects the segments of a take, and the names of all events."""

    def __init__(self, take):
        self.segments, self.names = [], []
        super().__init__(take, self.segments.append)

    def event(self, name, **fields):
        self.names.append(name)
        super().event(name, **fields)


def in_a_thread(call):
    """Run `call` in a thread other than the main one, which may set no signal handlers; its result."""
    results = []
    thread = Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture(scope="module")
def session(ray_cluster):  # noqa: ARG001 (outlives this fixture)
    with RenderSession(OPTIONS) as session:
        yield session
    assert session.pool is None


def test_a_session_keeps_its_actors_and_hands_out_finished_chunks_in_any_thread(session, tmp_path, capfd):
    alone, first, second = (take_at(tmp_path / name) for name in ("alone", "first", "second"))
    film.render(alone)
    in_a_thread(lambda: session.prepare(first))
    pids = session.pool.pids()
    for take in (first, second):
        observer = Segments(take)
        rendered = in_a_thread(lambda take=take, observer=observer: session.render(take, observer))
        assert rendered.num_frames == take.plan.num_frames
        names = [name for name in observer.names if not name.startswith("actors.")]  # how far their start is
        assert (names[0], names[-1]) == ("road.start", "film.done")
        assert [segment.span for segment in observer.segments] == list(take.plan.chunks)
        expected = [alone.journal.segment(chunk) for chunk in alone.plan.chunks]
        assert [*map(segment_to_bytes, observer.segments)] == [*map(segment_to_bytes, expected)]
    assert session.pool.pids() == pids
    assert capfd.readouterr().out == ""


class EnoughError(Exception):
    pass


class Fails(Segments):
    """Raises when the second chunk is published."""

    def event(self, name, **fields):
        super().event(name, **fields)
        if len(self.segments) == 2:
            raise EnoughError


def test_what_tick_or_the_observer_raises_ends_a_render_which_the_same_session_resumes(session, tmp_path):
    take = take_at(tmp_path)

    def tick():
        if take.journal.holds("segments", 0):
            raise EnoughError

    with pytest.raises(EnoughError):
        session.render(take, tick=tick)
    assert not take.store.exists("film.mp4")
    assert '"road.failed", "error": "EnoughError"' in take.store.get("events.jsonl").decode()
    with pytest.raises(EnoughError):
        session.render(take, Fails(take))
    observer = Segments(take)
    session.render(take, observer)
    assert "take.fault" not in take.store.get("events.jsonl").decode(), "no actor was at fault"
    assert [segment.span for segment in observer.segments] == list(take.plan.chunks)
    assert observer.names.count("denoise.chunk") < len(take.plan.chunks)


def test_a_tick_that_raises_ends_the_start_of_actors(ray_cluster, tmp_path):  # noqa: ARG001 (starts Ray)
    def tick():
        raise EnoughError

    with RenderSession(OPTIONS) as session:
        with pytest.raises(EnoughError):
            session.prepare(take_at(tmp_path), tick)
        assert session.pool.idle() == [], "no actor is left"


def test_actors_are_kept_for_takes_that_they_suit_and_replaced_for_others(tmp_path, monkeypatch):
    class Pool:
        def __init__(self, config):
            self.config, self.is_open = config, False

        def __enter__(self):
            self.is_open = True
            return self

        def __exit__(self, *_):
            self.is_open = False

        def start(self):
            assert self.is_open

        def report(self, _):
            pass

    monkeypatch.setattr("longtake.actors.session.ActorPool", Pool)
    plain = take_at(tmp_path / "plain")
    upscaled = take_at(tmp_path / "upscaled", "output.upscale=2", "output.upscaler=tiny-upscaler")
    session = RenderSession(OPTIONS)

    def pool_for(take):
        session.prepare(take)
        return session.pool

    small = pool_for(plain)
    assert pool_for(plain) is small
    large = pool_for(upscaled)
    assert large is not small
    assert not small.is_open
    assert pool_for(plain) is large, "an upscaler that a take does without does no harm"
    session.options = SessionOptions(degrees=Degrees(cfg=2))
    assert pool_for(plain).config.degrees == Degrees(cfg=2)
    assert not large.is_open
    session.close()
    assert session.pool is None
