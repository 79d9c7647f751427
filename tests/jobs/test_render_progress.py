"""Speed and time left of a render, from events whose times the test knows."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from longtake.jobs.feedback import Feedback
from longtake.jobs.progress import Progress
from longtake.jobs.render.progress import RenderProgress
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard

CHUNK_S, TAIL_S = 2.0, 0.3
STAGES = ("embed", "denoise", "decode", "encode", "publish")


@pytest.fixture(scope="module")
def plan():
    scenes = "[{prompt: a red circle, duration: 12s}, {prompt: a blue square, duration: 8s, transition: cut}]"
    return plan_film(parse_storyboard(f"{{model: tiny, scenes: {scenes}}}"), EmbeddedModel.untrained(TINY))


class Run:
    """Events of a render of `plan` in which a chunk takes `CHUNK_S`, and what its progress estimates after each."""

    def __init__(self, plan, kept=()):
        there = list(kept)
        journal = SimpleNamespace(kept=lambda _: there)
        self.progress = Progress(Feedback("none"), "starting Ray")
        self.observer = RenderProgress(SimpleNamespace(plan=plan, journal=journal), self.progress)
        self.now = 1000.0
        self.estimates = []
        there += range(3)  # events arrive late: by now the run itself has finished chunks
        self.observer.event("film.start")
        for chunk in plan.chunks:
            if chunk.index in kept:
                self.send("publish", chunk.index, 0.01)
                continue
            self.send("embed", chunk.index, 0.0)
            self.now += CHUNK_S - TAIL_S
            self.send("denoise", chunk.index, CHUNK_S - TAIL_S)
            for stage in ("decode", "encode", "publish"):
                self.now += TAIL_S / 3
                self.send(stage, chunk.index, TAIL_S / 3)
            self.estimates.append((self.now, self.progress._state.left_s))

    def send(self, stage, chunk, seconds):
        time = datetime.fromtimestamp(self.now, UTC).isoformat()
        self.observer.event(f"{stage}.chunk", chunk=chunk, scene=0, seconds=seconds, time=time)


@pytest.mark.parametrize("kept", [(), range(7)], ids=["new", "resumed"])
def test_time_left_is_right_from_the_third_chunk_on(plan, kept, monkeypatch):
    monkeypatch.setattr("longtake.jobs.render.progress.denoising_work", lambda *_: 1.0)
    run = Run(plan, kept)
    assert run.observer.kept == len(kept)
    assert [left_s for _, left_s in run.estimates[:1]] == [None]
    for now, left_s in run.estimates[2:-1]:
        assert left_s == pytest.approx(run.now - now, rel=0.15)


def test_speed_counts_only_chunks_that_were_rendered_now(plan):
    run = Run(plan, kept=range(15))
    state = run.progress._state
    assert (state.done, state.total, state.kept) == (20, 20, 15)
    assert state.fields["chunks_per_s"] == pytest.approx(1 / CHUNK_S, rel=0.01)


def test_a_chunk_that_is_rendered_again_after_a_fault_is_counted_once(plan):
    run = Run(plan)
    run.send("publish", 3, 0.1)
    assert run.progress._state.done == len(plan.chunks)
