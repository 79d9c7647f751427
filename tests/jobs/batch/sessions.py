"""Render sessions without Ray, whose takes go as a test asks."""

from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock

from longtake.jobs.batch.options import BatchOptions
from longtake.jobs.batch.run import render_batch
from longtake.jobs.batch.scheduler import RETRIES, BatchSession, Rendered
from longtake.jobs.progress import Progress
from longtake.pipeline.journal.store import Store

AT_ONCE = replace(RETRIES, back_off_s=0)
STORYBOARD = "{model: tiny, scenes: [{prompt: a red circle bounces, duration: 2s}]}"


class World:
    """Shared by all sessions of a test: what a take raises, by id and attempt, and what was rendered."""

    def __init__(self, *, raises=None, on_chunk=lambda *_: None, refuses=lambda _: None, chunks=2):
        self.raises = defaultdict(list, {name: list(errors) for name, errors in (raises or {}).items()})
        self.on_chunk, self.refuses, self.chunks = on_chunk, refuses, chunks
        self.started, self.rendered = [], Counter()
        self.at_once = self.most_at_once = self.open_sessions = self.opened = 0
        self.lock = Lock()

    @contextmanager
    def sessions(self, todo, options):
        assert todo, "nothing is opened where nothing is left"
        self.opened += 1
        yield lambda: FakeSession(self)


class FakeSession(BatchSession):
    def __init__(self, world):
        self.world = world
        with world.lock:
            world.open_sessions += 1

    def ready(self, take):
        self.take = take
        if error := self.world.refuses(take):
            raise error

    def render(self, tick):
        world, take = self.world, self.take
        with world.lock:
            world.started.append(take.id)
            world.at_once += 1
            world.most_at_once = max(world.most_at_once, world.at_once)
        try:
            for chunk in range(world.chunks):
                world.on_chunk(take, chunk)
                tick()
            if world.raises[take.id]:
                raise world.raises[take.id].pop(0)
            Store(take.output).put(take.film, b"film", durable=False)
            with world.lock:
                world.rendered[take.id] += 1
        finally:
            with world.lock:
                world.at_once -= 1
        return Rendered(0.0)

    def close(self):
        with self.world.lock:
            self.world.open_sessions -= 1


def run(manifest, root, world, *, stop=None, **options):
    """One run of the command; returns its report."""
    options = BatchOptions(**{"retries": AT_ONCE, **options})
    return render_batch(str(manifest), str(root), options, world.sessions, stop or Event(), Progress.silent())


def states(report):
    return {record.id: record.state for record in report.records}
