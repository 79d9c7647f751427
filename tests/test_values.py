from fractions import Fraction

import pytest
import torch

from longtake.pipeline.clock import MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.errors import ShapeError
from longtake.pipeline.values import (
    FrameChunk,
    LatentChunk,
    PromptEmbedding,
    Segment,
    SoundChunk,
    VideoFormat,
    VideoPacket,
)

CLOCK = MediaClock(Fraction(16), 16_000, 4, 500)
SPAN = plan_chunks(CLOCK, plan_scenes(CLOCK, [Fraction(2)], [True]), 3)[1]
FORMAT = VideoFormat(64, 64, "h264", "yuv420p", b"")
SOUND = SoundChunk(SPAN.samples.start, 16_000, torch.zeros(1, len(SPAN.samples)))


def packets(frames):
    return tuple(VideoPacket(frame, keyframe=frame == frames[0], data=b"") for frame in frames)


def test_values_of_the_right_size_are_built():
    PromptEmbedding("a red circle", torch.zeros(5, 32))
    LatentChunk(SPAN, torch.zeros(3, 8, 4, 4), torch.zeros(24, 16))
    FrameChunk(SPAN, torch.zeros(12, 64, 64, 3, dtype=torch.uint8))
    Segment(SPAN, FORMAT, packets(SPAN.frames), SOUND)


def test_latents_keep_the_dtype_they_were_computed_in():
    chunk = LatentChunk(SPAN, torch.zeros(3, 8, 4, 4, dtype=torch.bfloat16), torch.zeros(24, 16, dtype=torch.float64))
    assert (chunk.video.dtype, chunk.audio.dtype) == (torch.bfloat16, torch.float64)


@pytest.mark.parametrize(
    ("video", "audio", "said"),
    [
        ((4, 8, 4, 4), (24, 16), r"LatentChunk.video is \[4 8 4 4\]; .* \[3 \* \* \*\]"),
        ((3, 8, 4), (24, 16), r"LatentChunk.video is \[3 8 4\]"),
        ((3, 8, 4, 4), (23, 16), r"LatentChunk.audio is \[23 16\]; .* \[24 \*\]"),
        ((3, 8, 4, 4), (1, 24, 16), r"LatentChunk.audio is \[1 24 16\]"),
    ],
)
def test_latents_have_one_row_per_latent_of_their_span(video, audio, said):
    with pytest.raises(ShapeError, match=said):
        LatentChunk(SPAN, torch.zeros(video), torch.zeros(audio))


@pytest.mark.parametrize("shape", [(11, 64, 64, 3), (12, 64, 64, 4), (12, 3, 64, 64), (12, 64, 64)])
def test_frames_are_rgb_and_one_per_frame_of_their_span(shape):
    with pytest.raises(ShapeError, match=r"FrameChunk.frames is .* \[12 \* \* 3\]"):
        FrameChunk(SPAN, torch.zeros(shape, dtype=torch.uint8))


def test_frames_are_bytes():
    with pytest.raises(ShapeError, match="uint8"):
        FrameChunk(SPAN, torch.zeros(12, 64, 64, 3))


@pytest.mark.parametrize("tokens", [torch.zeros(32), torch.zeros(1, 5, 32)])
def test_a_prompt_is_a_row_of_tokens(tokens):
    with pytest.raises(ShapeError, match=r"PromptEmbedding.tokens is .* \[\* \*\]"):
        PromptEmbedding("a red circle", tokens)


def test_sound_is_float32_and_knows_where_it_stops():
    assert SOUND.stop_sample == SPAN.samples.stop
    with pytest.raises(ShapeError, match="float32"):
        SoundChunk(0, 16_000, torch.zeros(1, 8, dtype=torch.int16))
    with pytest.raises(ShapeError, match=r"SoundChunk.pcm is \[8\]"):
        SoundChunk(0, 16_000, torch.zeros(8))


@pytest.mark.parametrize("frames", [range(12, 23), range(24), range(23, 11, -1), range(0)])
def test_a_segment_holds_one_packet_per_frame_in_order(frames):
    with pytest.raises(ShapeError, match=r"segment 1 holds \d+ packets for frames 12\.\.23"):
        Segment(SPAN, FORMAT, packets(frames), SOUND)


def test_a_segment_starts_with_a_key_frame():
    delta = tuple(VideoPacket(frame, keyframe=False, data=b"") for frame in SPAN.frames)
    with pytest.raises(ShapeError, match="not closed"):
        Segment(SPAN, FORMAT, delta, SOUND)
