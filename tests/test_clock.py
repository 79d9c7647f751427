from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from longtake.pipeline.clock import ChunkSpan, MediaClock, SceneSpan, plan_before, plan_chunks, plan_scenes
from longtake.pipeline.errors import SpecError

NTSC_FILM = Fraction(24000, 1001)

rates = st.sampled_from([Fraction(8), Fraction(16), NTSC_FILM, Fraction(30000, 1001), Fraction(60)]) | st.fractions(
    min_value=1, max_value=240, max_denominator=1001
)


@st.composite
def clocks(draw):
    video_stride = draw(st.integers(1, 16))
    return MediaClock(
        fps=draw(rates),
        sample_rate=draw(st.sampled_from([8_000, 16_000, 44_100, 48_000]) | st.integers(240, 192_000)),
        video_stride=video_stride,
        audio_stride=draw(st.sampled_from([160, 320, 441, 512, 640]) | st.integers(1, 5_000)),
        first_latent_frames=draw(st.sampled_from([None, 1, video_stride])),
    )


@st.composite
def storyboards(draw):
    """A clock, scene lengths of at least one video latent in exact seconds, and cuts."""
    clock = draw(clocks())
    latent_s = clock.seconds(clock.video_stride)
    lengths = st.fractions(min_value=1, max_value=30, max_denominator=997)
    durations_s = [latent_s * length for length in draw(st.lists(lengths, min_size=1, max_size=6))]
    cuts = draw(st.lists(st.booleans(), min_size=len(durations_s), max_size=len(durations_s)))
    return clock, durations_s, cuts


def hours(clock, count, scenes):
    """`count` hours in `scenes` equal scenes, every third one opened by a cut."""
    return clock, [Fraction(3600 * count, scenes)] * scenes, [index % 3 == 0 for index in range(scenes)]


# Ten hours each: Wan's strides, LTX-2's, and the embedded model's.
TEN_HOURS = [
    hours(MediaClock(NTSC_FILM, 48_000, 4, 1_920, first_latent_frames=1), 10, 7),
    hours(MediaClock(NTSC_FILM, 44_100, 8, 1_764, first_latent_frames=1), 10, 11),
    hours(MediaClock(Fraction(16), 16_000, 4, 500), 10, 7),
]


def plan(storyboard, chunk_latents) -> tuple[tuple[SceneSpan, ...], tuple[ChunkSpan, ...]]:
    clock, durations_s, cuts = storyboard
    scenes = plan_scenes(clock, durations_s, cuts)
    return scenes, plan_chunks(clock, scenes, chunk_latents)


def check_spans_tile_the_film(scenes, chunks):
    for spans in (
        [chunk.frames for chunk in chunks],
        [chunk.latents for chunk in chunks],
        [chunk.audio_latents for chunk in chunks],
        [chunk.samples for chunk in chunks],
        [scene.frames for scene in scenes],
    ):
        assert spans[0].start == 0
        assert all(before.stop == after.start for before, after in pairwise(spans))
        assert all(span.start <= span.stop and span.step == 1 for span in spans)
    assert all(len(chunk.frames) > 0 and len(chunk.latents) > 0 for chunk in chunks)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


def check_the_end_is_exact(storyboard, scenes, chunks):
    clock, durations_s, _ = storyboard
    film_s = sum(durations_s)
    assert abs(chunks[-1].frames.stop - film_s * clock.fps) <= Fraction(1, 2)
    assert chunks[-1].frames.stop == scenes[-1].frames.stop
    assert chunks[-1].samples.stop == floor(Fraction(chunks[-1].frames.stop) / clock.fps * clock.sample_rate)


def check_sound_never_drifts(clock, chunks):
    for chunk in chunks:
        assert abs(chunk.audio_latents.stop * clock.audio_stride - chunk.samples.stop) < clock.audio_stride
        assert (
            0
            <= chunk.frames.stop / clock.fps - Fraction(chunk.samples.stop, clock.sample_rate)
            < Fraction(1, clock.sample_rate)
        )
    assert chunks[-1].audio_latents.stop * clock.audio_stride >= chunks[-1].samples.stop


def check_chunks_stay_in_their_scene(scenes, chunks, chunk_latents):
    for scene in scenes:
        own = [chunk for chunk in chunks if chunk.scene == scene.index]
        assert own[0].frames.start == scene.frames.start
        assert own[-1].frames.stop == scene.frames.stop
        assert {chunk.scene_start for chunk in own} == {own[0].index}
        assert all(len(chunk.latents) == chunk_latents for chunk in own[:-1])
        assert len(own[-1].latents) <= chunk_latents


def check_sections_open_at_cuts(clock, scenes, chunks):
    section, section_frame, section_latent = 0, 0, 0
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        if chunk.index == chunk.scene_start and scenes[chunk.scene].cut:
            section, section_frame, section_latent = chunk.index, chunk.frames.start, chunk.latents.start
        assert chunk.section == section
        opens_next = following is None or (following.index == following.scene_start and scenes[following.scene].cut)
        assert chunk.ends_section == opens_next
        # A codec that starts at the section's first frame yields exactly these frames, but for the film's trimmed end.
        assert clock.frames(chunk.latents.start - section_latent) == chunk.frames.start - section_frame
        held = section_frame + clock.frames(chunk.latents.stop - section_latent)
        assert held == chunk.frames.stop or (following is None and 0 < held - chunk.frames.stop < clock.video_stride)
        assert (chunk.start_s, chunk.stop_s) == (chunk.frames.start / clock.fps, held / clock.fps)


def check_borders_are_near_exact_times(storyboard, scenes):
    clock, durations_s, cuts = storyboard
    end_s = Fraction(0)
    for scene, duration_s, cut in zip(scenes, durations_s, cuts, strict=True):
        assert abs(scene.frames.start - end_s * clock.fps) <= Fraction(clock.video_stride, 2)
        assert scene.cut == (cut or scene.index == 0)
        end_s += duration_s


@given(storyboards(), st.integers(1, 12))
@example(TEN_HOURS[0], 12)
@example(TEN_HOURS[1], 11)
@example(TEN_HOURS[2], 12)
@settings(deadline=None)
def test_a_plan_tiles_the_timeline_exactly(storyboard, chunk_latents):
    clock = storyboard[0]
    scenes, chunks = plan(storyboard, chunk_latents)
    check_spans_tile_the_film(scenes, chunks)
    check_the_end_is_exact(storyboard, scenes, chunks)
    check_sound_never_drifts(clock, chunks)
    check_chunks_stay_in_their_scene(scenes, chunks, chunk_latents)
    check_sections_open_at_cuts(clock, scenes, chunks)
    check_borders_are_near_exact_times(storyboard, scenes)


@given(storyboards(), st.integers(1, 12), st.fractions(min_value=1, max_value=30, max_denominator=997))
@settings(deadline=None)
def test_appending_a_scene_after_a_cut_moves_no_earlier_chunk(storyboard, chunk_latents, length):
    clock, durations_s, cuts = storyboard
    longer = (clock, [*durations_s, length * clock.seconds(clock.video_stride)], [*cuts, True])
    before, after = plan(storyboard, chunk_latents)[1], plan(longer, chunk_latents)[1]
    last_scene = before[-1].scene
    kept = [chunk for chunk in before if chunk.scene < last_scene]
    assert list(after[: len(kept)]) == kept


@given(clocks(), st.integers(0, 10**9))
def test_the_fewest_latents_that_hold_some_frames(clock, frames):
    latents = clock.latents(frames)
    assert clock.frames(latents) >= frames
    assert latents == 0 or clock.frames(latents - 1) < frames


@given(clocks(), st.integers(0, 10**9))
def test_latents_and_their_frames_are_inverse(clock, latents):
    assert clock.latents(clock.frames(latents)) == latents


@given(clocks(), st.integers(0, 10**9))
def test_samples_and_audio_latents_are_floors_of_exact_time(clock, frames):
    assert clock.seconds(frames) * clock.fps == frames
    assert 0 <= clock.seconds(frames) * clock.sample_rate - clock.samples(frames) < 1
    assert 0 <= clock.samples(frames) - clock.audio_latents(frames) * clock.audio_stride < clock.audio_stride


def test_the_first_latent_of_every_section_holds_one_frame_where_the_codec_says_so():
    clock = MediaClock(Fraction(16), 16_000, 4, 500, first_latent_frames=1)
    scenes = plan_scenes(clock, [Fraction(2)] * 2, [True, True])
    chunks = plan_chunks(clock, scenes, 4)
    assert [scene.frames for scene in scenes] == [range(33), range(33, 64)]
    assert [(len(chunk.latents), len(chunk.frames)) for chunk in chunks] == [
        (4, 13),
        (4, 16),
        (1, 4),
        (4, 13),
        (4, 16),
        (1, 2),
    ]


def test_a_border_snaps_to_the_latent_nearest_to_the_exact_time():
    # 2.4 frames are nearer to 4 than to 0, although they round to 2 frames, which lie halfway.
    clock = MediaClock(Fraction(16), 16_000, 4, 500)
    scenes = plan_scenes(clock, [Fraction(12, 5) / 16, Fraction(1)], [True, False])
    assert scenes[0].frames == range(4)


@pytest.mark.parametrize("durations_s", [[Fraction(1, 16), Fraction(1)], [Fraction(29, 32), Fraction(1, 16)]])
def test_a_scene_that_snapping_swallows_is_an_error_with_a_fix(durations_s):
    clock = MediaClock(Fraction(16), 16_000, 4, 500)
    with pytest.raises(SpecError, match=r"scenes\[\d\].duration is 0.0625 s;.*nothing is left.*at least 4f"):
        plan_scenes(clock, durations_s, [True, False])


@given(
    clocks(), st.lists(st.fractions(min_value=0, max_value=3, max_denominator=50), min_size=1, max_size=6), st.data()
)
def test_scenes_of_any_length_are_planned_or_refused_but_never_empty(clock, lengths, data):
    cuts = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    try:
        scenes = plan_scenes(clock, [length * clock.seconds(clock.video_stride) for length in lengths], cuts)
    except SpecError:
        assume(False)
    assert all(len(scene.frames) > 0 for scene in scenes)


@pytest.mark.parametrize("name", ["fps", "sample_rate", "video_stride", "audio_stride"])
def test_a_clock_needs_rates_and_strides_above_zero(name):
    sizes = {"fps": Fraction(16), "sample_rate": 16_000, "video_stride": 4, "audio_stride": 500} | {name: 0}
    with pytest.raises(SpecError, match=f"{name} is 0"):
        MediaClock(**sizes)


@pytest.mark.parametrize("frames", [0, 5, -1])
def test_a_first_latent_holds_between_one_frame_and_a_stride(frames):
    with pytest.raises(SpecError, match=r"use None or 1\.\.4"):
        MediaClock(Fraction(16), 16_000, 4, 500, first_latent_frames=frames)


@pytest.mark.parametrize("chunk_latents", [0, -3])
def test_a_chunk_holds_at_least_one_latent(chunk_latents):
    clock = MediaClock(Fraction(16), 16_000, 4, 500)
    with pytest.raises(SpecError, match="at least 1 video latent"):
        plan_chunks(clock, plan_scenes(clock, [Fraction(1)], [True]), chunk_latents)


@pytest.mark.parametrize("first", [None, 1])
def test_latents_are_timed_at_their_middle(first):
    clock = MediaClock(Fraction(10), 1000, 4, 50, first_latent_frames=first, audio_centre=Fraction(1, 2))
    scenes = plan_scenes(clock, [Fraction(2), Fraction(2)], [True, True])
    for chunk in plan_chunks(clock, scenes, 3):
        edges = [chunk.start_s * clock.fps]
        for _ in chunk.latents:
            opens_section = chunk.index == chunk.section and len(edges) == 1
            edges.append(edges[-1] + (first if first and opens_section else 4))
        middles = [float((start + stop) / 2 / clock.fps) for start, stop in pairwise(edges)]
        assert clock.video_times(chunk) == pytest.approx(middles)
        assert edges[-1] / clock.fps == chunk.stop_s
        assert clock.audio_times(chunk) == pytest.approx([0.05 * latent + 0.025 for latent in chunk.audio_latents])


def test_an_mdct_latent_is_timed_at_its_frames_centre():
    clock = MediaClock(Fraction(16), 16_000, 4, 800, audio_centre=Fraction(0))
    (chunk,) = plan_chunks(clock, plan_scenes(clock, [Fraction(1)], [True]), 4)
    assert clock.audio_times(chunk) == [latent / 20 for latent in range(20)]


@pytest.mark.parametrize(("first", "stops"), [(None, [4, 8, 12, 16, 20, 22]), (1, [1, 5, 9, 13, 17, 21, 22])])
def test_latents_end_where_their_frames_end_and_the_last_where_the_film_does(first, stops):
    clock = MediaClock(Fraction(16), 16_000, 4, 800, first)
    chunks = plan_chunks(clock, plan_scenes(clock, [Fraction(22, 16)], [True]), 3)
    assert [stop for chunk in chunks for stop in clock.latent_stops(chunk)] == stops


@pytest.mark.parametrize("first_latent_frames", [None, 1])
@pytest.mark.parametrize("fps", [Fraction(16), Fraction(24000, 1001)], ids=["16", "24000/1001"])
@pytest.mark.parametrize("latents", [1, 4, 6, 12])
def test_the_chunks_that_a_film_continues_end_where_it_begins_and_share_its_section(latents, fps, first_latent_frames):
    clock = MediaClock(fps, 16_000, 4, 800, first_latent_frames)
    before = plan_before(clock, latents, 4)
    scenes = plan_scenes(clock, [Fraction(2), Fraction(3, 2), Fraction(1)], [True, False, True], latents)
    spans = [*before, *plan_chunks(clock, scenes, 4, before)]
    assert [span.index for span in spans] == list(range(-len(before), len(spans) - len(before)))
    for one, two in pairwise(spans):
        for name in ("latents", "audio_latents", "frames", "samples"):
            assert getattr(one, name).stop == getattr(two, name).start
        assert one.stop_s == two.start_s or two.index == two.section
    assert spans[len(before)].frames.start == spans[len(before)].latents.start == 0
    assert sum(len(span.latents) for span in before) == latents
    assert -before[0].frames.start == clock.frames(latents)
    assert {span.section for span in spans if span.scene < 2} == {-len(before)}
    assert [scene.cut for scene in scenes] == [False, False, True]
    times = [time for span in spans if span.scene < 2 for time in clock.video_times(span)]
    steps = {round(float(b - a), 9) for a, b in pairwise(times)}
    assert len(steps) <= (1 if first_latent_frames is None else 2), "times run through without a jump"


def test_a_film_that_continues_nothing_is_planned_as_before():
    clock = MediaClock(Fraction(16), 16_000, 4, 800)
    assert plan_before(clock, 0, 4) == ()
    scenes = plan_scenes(clock, [Fraction(2)], [False])
    assert scenes[0].cut
    assert plan_chunks(clock, scenes, 4)[0].section == 0
