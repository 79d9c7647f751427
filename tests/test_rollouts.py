"""Rollouts on plain ints: what a pass holds, and which earlier chunks a chunk needs."""

from fractions import Fraction

import pytest

from longtake.pipeline.attention.kv_plan import NOTHING_KEPT, KVPlan
from longtake.pipeline.clock import MediaClock, plan_before, plan_chunks, plan_scenes
from longtake.pipeline.plan import plan_film
from longtake.pipeline.rollouts import Causal, Continuation
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from tests.tiny import tiny_model

CLOCK = MediaClock(Fraction(16), 16_000, video_stride=4, audio_stride=800)
KV_PLAN = KVPlan(window=2, sink=1, refresh_chunks=4)


@pytest.fixture(scope="module")
def chunks():
    """Two sections of six and two chunks, of four latents each."""
    scenes = plan_scenes(CLOCK, [Fraction(6), Fraction(2)], [True, True])
    return plan_chunks(CLOCK, scenes, chunk_latents=4)


def indices(spans):
    return [span.index for span in spans]


def earlier(chunks, index):
    return chunks[chunks[index].section : index]


@pytest.mark.parametrize(
    ("index", "needed"),
    [(0, []), (1, [0]), (3, [0, 1, 2]), (4, [0, 2, 3]), (5, [0, 2, 3, 4]), (6, []), (7, [6])],
)
def test_a_causal_chunk_needs_what_its_last_canonical_point_saw_and_all_since(chunks, index, needed):
    assert indices(Causal().history(KV_PLAN, earlier(chunks, index), chunks[index])) == needed


@pytest.mark.parametrize(
    ("overlap", "index", "needed"),
    [(0, 3, []), (3, 3, [2]), (4, 3, [2]), (5, 3, [1, 2]), (99, 3, [0, 1, 2]), (5, 6, []), (5, 7, [6])],
)
def test_a_continuation_needs_the_chunks_that_hold_its_overlap(chunks, overlap, index, needed):
    assert indices(Continuation(overlap).history(KV_PLAN, earlier(chunks, index), chunks[index])) == needed


def test_a_causal_pass_holds_its_chunk_and_a_continuation_its_overlap_too(chunks):
    before, chunk = earlier(chunks, 2), chunks[2]
    assert Causal().pass_span(CLOCK, before, chunk) == chunk
    span = Continuation(3).pass_span(CLOCK, before, chunk)
    assert (span.latents, span.frames) == (range(5, 12), range(20, 48))
    assert Continuation(3).pass_span(CLOCK, (), chunks[6]) == chunks[6], "a section's first chunk has no overlap"


def test_clean_passes_run_over_the_film_before_and_continuations_do_not():
    before = plan_before(CLOCK, 5, chunk_latents=4)
    scenes = plan_scenes(CLOCK, [Fraction(2)], [True], before=5)
    chunks = plan_chunks(CLOCK, scenes, 4, before)
    assert Causal().all_passes(CLOCK, before, chunks) == [*before, *chunks]
    passes = Continuation(5).all_passes(CLOCK, before, chunks)
    assert [span.latents for span in passes] == [range(-5, 4), range(-1, 8)]


def test_each_rollout_says_what_the_store_keeps_and_what_comes_before_a_film():
    assert (Causal().kv_plan(KV_PLAN), Continuation(3).kv_plan(KV_PLAN)) == (KV_PLAN, NOTHING_KEPT)
    assert Causal().latents_before(KV_PLAN, chunk_latents=4) == 8
    assert [Continuation(overlap).latents_before(KV_PLAN, 4) for overlap in (0, 3)] == [1, 3]
    assert (Causal().has_clean_pass, Continuation(3).has_clean_pass) == (True, False)
    assert (Causal().opening_latents, Continuation(3).opening_latents) == (0, 3)


def test_a_rollout_without_an_engine_is_named():
    class Unknown:
        """Planned like a causal rollout."""

        def __getattr__(self, name):
            return getattr(Causal(), name)

    model = tiny_model()
    model.rollout = Unknown()
    plan = plan_film(parse_storyboard("{model: tiny, scenes: [{prompt: a red circle, duration: 1s}]}"), model)
    with pytest.raises(NotImplementedError, match=r"no engine runs .*Unknown"):
        DenoiseStage(model, plan, lambda _: None)
