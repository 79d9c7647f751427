from fractions import Fraction

import pytest

from longtake.pipeline.clock import MediaClock
from longtake.pipeline.errors import MediaError
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.testing.media import fake_frames, fake_sound, fake_spans

FPS = Fraction(25)
SPANS = fake_spans(MediaClock(FPS, 16000, 1, 1), [5, 9, 4])


def chunk(span, height=48, width=64):
    return fake_frames(span, height, width), fake_sound(span.samples, 16000, 1)


def test_a_segment_holds_the_chunks_frames_and_its_untouched_sound():
    frames, sound = chunk(SPANS[1])
    segment = EncodeStage(FPS, quality=20)(frames, sound)
    assert segment.span == SPANS[1]
    assert segment.sound is sound
    assert [packet.frame for packet in segment.packets] == list(range(5, 14))
    assert [packet.keyframe for packet in segment.packets] == [True] + [False] * 8
    assert (segment.format.width, segment.format.height) == (64, 48)


def test_a_segment_does_not_depend_on_what_the_stage_did_before():
    stage = EncodeStage(FPS, quality=20)
    after_others = [stage(*chunk(span)) for span in SPANS][2]
    alone = EncodeStage(FPS, quality=20)(*chunk(SPANS[2]))
    assert alone.packets == after_others.packets
    assert alone.format == after_others.format


def test_an_odd_size_is_refused():
    with pytest.raises(MediaError, match="width is 65"):
        EncodeStage(FPS, quality=20)(*chunk(SPANS[0], width=65))
