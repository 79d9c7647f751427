from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.values import Colour, Footage
from longtake.pipeline.models.streaming_upscaler import ChunkGrid
from longtake.pipeline.upscaling.plan import (
    Exact,
    Handoff,
    UpscaleSpec,
    WarmUp,
    frames_to_upscale,
    parse_continuity,
    plan_upscale,
)

WISH = UpscaleSpec(segment_frames=20)
GRID = ChunkGrid(chunk_frames=4, history_frames=10)


def footage_of(pts, time_base=Fraction(1, 100)):
    steps = [after - before for before, after in pairwise(pts)]
    return Footage(
        url="film.mp4", fingerprint="f", container="mp4", stream_index=0, codec="h264", width=8, height=6,
        pix_fmt="yuv420p", bit_depth=8, colour=Colour(), sample_aspect_ratio=None, rotation=0, display_matrix=None,
        interlaced=False, time_base=time_base, frame_rate=Fraction(25), pts=tuple(pts),
        durations=(*steps, steps[-1]), keyframes=(0,),
    )  # fmt: skip


plans = st.builds(
    lambda start, length, cuts, spec, chunk, history: plan_upscale(
        range(start, start + length), cuts, spec, ChunkGrid(chunk, history)
    ),
    start=st.integers(0, 50),
    length=st.integers(1, 300),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    spec=st.builds(
        UpscaleSpec,
        segment_frames=st.integers(1, 60),
        continuity=st.one_of(st.just(Exact()), st.just(Handoff()), st.builds(WarmUp, st.integers(0, 40))),
    ),
    chunk=st.integers(1, 8),
    history=st.integers(0, 40),
)


@given(plans)
def test_segments_tile_the_frames_in_order(plan):
    frames = [frame for span in plan.segments for frame in span.frames]
    assert frames == list(plan.frames)
    assert [span.index for span in plan.segments] == list(range(len(plan.segments)))
    assert [frame for scene in plan.scenes for frame in scene] == frames


@given(plans)
def test_segments_and_warm_ups_lie_on_their_scenes_grid_and_inside_it(plan):
    for span in plan.segments:
        scene = plan.scenes[span.scene]
        assert span.scene_start == scene.start
        assert span.warm_up.stop == span.frames.start
        assert scene.start <= span.warm_up.start
        assert span.frames.stop <= scene.stop
        assert (span.frames.start - scene.start) % plan.grid.chunk_frames == 0
        assert (span.warm_up.start - scene.start) % plan.grid.chunk_frames == 0
        ends_scene = span.frames.stop == scene.stop
        assert ends_scene or len(span.frames) % plan.grid.chunk_frames == 0


@given(plans)
def test_only_a_scenes_first_segments_are_warmed_up_over_less_than_the_history(plan):
    for span in plan.segments:
        if isinstance(plan.spec.continuity, Exact):
            whole = span.warm_up.start == span.scene_start
            assert whole or len(span.warm_up) >= plan.grid.history_frames
        if isinstance(plan.spec.continuity, Handoff):
            assert not span.warm_up
            assert plan.before(span) is None or plan.before(span).frames.stop == span.frames.start


def test_a_plan_is_what_it_was_the_day_before():
    plan = plan_upscale(range(3, 60), [2, 30, 30, 99], WISH, GRID)
    assert plan.scenes == (range(3, 30), range(30, 60))
    spans = [(span.warm_up, span.frames) for span in plan.segments]
    assert spans == [
        (range(3, 3), range(3, 23)),
        (range(11, 23), range(23, 30)),
        (range(30, 30), range(30, 50)),
        (range(38, 50), range(50, 60)),
    ]


def test_a_short_warm_up_is_rounded_up_to_whole_chunks():
    plan = plan_upscale(range(60), [], replace(WISH, continuity=WarmUp(5)), GRID)
    assert [len(span.warm_up) for span in plan.segments] == [0, 8, 8]


@pytest.mark.parametrize("text", ["exact", "handoff", "warmup=16"])
def test_a_continuity_reads_as_it_is_written(text):
    assert str(parse_continuity(text)) == text


@pytest.mark.parametrize("text", ["", "warmup", "warmup=", "warmup=-4", "Exact", "exact=3"])
def test_an_unknown_continuity_is_refused_with_those_that_are_known(text):
    with pytest.raises(SpecError, match=r"use exact, handoff, or warmup=N"):
        parse_continuity(text)


def test_moments_count_from_the_first_picture_by_its_own_times():
    footage = footage_of([50, 53, 90, 91, 150, 250])

    def wished(start, end=None):
        return frames_to_upscale(footage, replace(WISH, start=start, end=end))

    assert wished(None) == range(6)
    assert wished("30ms") == range(1, 6)
    assert wished("0.4s", "0:02") == range(2, 5)
    assert wished("2f", "4f") == range(2, 4)
    assert wished("0:00:01.0", "9h") == range(4, 6)
    for start, end in (("2s", "1s"), ("1m", None), (None, "0s")):
        with pytest.raises(SpecError, match=r"holds no frame; the footage lasts"):
            wished(start, end)
    with pytest.raises(SpecError, match=r"--start is '12'; write a number with its unit"):
        wished("12")


@pytest.mark.parametrize("values", [{"scale": 3}, {"segment_frames": 0}, {"scene_threshold": 1.5}])
def test_a_wish_that_cannot_be_names_the_flag(values):
    with pytest.raises(SpecError, match=f"--{next(iter(values)).replace('_', '-')}"):
        UpscaleSpec(**values)
