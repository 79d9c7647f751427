from fractions import Fraction
from itertools import accumulate

import av
import pytest
import torch
from av.video.frame import PictureType, VideoFrame
from hypothesis import given, settings, strategies as st

from longtake.pipeline.clock import MediaClock
from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.read import to_rgb
from longtake.pipeline.media.write import GopEncoder, _to_yuv
from longtake.pipeline.testing.media import fake_frames, fake_spans

FPS = Fraction(24000, 1001)


def film(lengths, height=48, width=80):
    spans = fake_spans(MediaClock(FPS, 16000, 1, 1), lengths)
    return [(span.index, span.frames.start, fake_frames(span, height, width).frames) for span in spans]


def one_pass(encoder, chunks):
    """The plain way: one encoder for the whole film, told where the GOPs begin."""
    _, height, width, _ = chunks[0][2].shape
    context = encoder._open(width, height)
    starts = {start for _, start, _ in chunks}
    packets = []
    for number, rgb in enumerate(torch.cat([frames for _, _, frames in chunks]).numpy()):
        frame = _to_yuv(VideoFrame.from_ndarray(rgb))
        frame.pts = number
        frame.pict_type = PictureType.I if number in starts else PictureType.NONE
        packets += context.encode(frame)
    packets += context.encode(None)
    return [bytes(packet) for packet in packets], bytes(context.extradata)


def decode(video_format, packets):
    decoder = av.CodecContext.create(video_format.codec, "r")
    decoder.extradata = video_format.extradata
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(packet.data))] + decoder.decode(None)
    return torch.stack([torch.from_numpy(to_rgb(frame)) for frame in frames])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[7, 5, 1, 1, 3, 6], [33, 1, 31, 40, 9], [1, 1, 1, 1]])
def test_chunks_encoded_alone_equal_one_pass_bit_for_bit(threads, lengths):
    encoder = GopEncoder(FPS, quality=20, threads=threads)
    chunks = film(lengths)
    wanted, extradata = one_pass(encoder, chunks)
    encoded = {index: encoder.encode(frames, start, index) for index, start, frames in reversed(chunks)}
    packets = [packet for index in range(len(chunks)) for packet in encoded[index][1]]
    assert [packet.data for packet in packets] == wanted
    assert [packet.frame for packet in packets if packet.keyframe] == [0, *accumulate(lengths)][:-1]
    assert [packet.frame for packet in packets] == list(range(sum(lengths)))
    assert {video_format.extradata for video_format, _ in encoded.values()} == {extradata}


def test_each_chunk_decodes_alone_and_every_frame_is_the_one_that_was_meant():
    chunks = film([9, 6, 11])
    meant = torch.cat([frames for _, _, frames in chunks]).float()
    encoder = GopEncoder(FPS, quality=18)
    decoded = torch.cat([decode(*encoder.encode(frames, start, index)) for index, start, frames in chunks]).float()
    errors = (decoded[:, None] - meant[None]).square().mean(dim=(2, 3, 4))
    assert errors.argmin(dim=1).tolist() == list(range(26))


@pytest.mark.parametrize(
    "rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 100, 50)]
)
def test_pure_colours_come_back_within_two_units(rgb):
    frames = torch.tensor(rgb, dtype=torch.uint8).expand(2, 32, 32, 3)
    decoded = decode(*GopEncoder(FPS, quality=10).encode(frames, 0, 0))
    assert (decoded.int() - frames.int()).abs().max() <= 2


def test_the_stream_says_which_colours_it_means():
    video_format, packets = GopEncoder(FPS, quality=20).encode(film([2])[0][2], 0, 0)
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = video_format.extradata
    frame = [*decoder.decode(av.Packet(packets[0].data)), *decoder.decode(None)][0]
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
    assert (frame.width, frame.height, frame.format.name) == (80, 48, "yuv420p")


@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 60), width=st.integers(8, 60))
def test_every_even_size_from_16_up_is_encoded_whole(height, width):
    frames = film([2], 2 * height, 2 * width)[0][2]
    video_format, packets = GopEncoder(FPS, quality=20).encode(frames, 0, 0)
    assert decode(video_format, packets).shape == frames.shape
    assert (video_format.width, video_format.height) == (2 * width, 2 * height)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [(47, 80, "height is 47.*46 or 48"), (48, 81, "width is 81.*80 or 82"), (14, 80, "height is 14.*at least 16")],
)
def test_a_size_that_cannot_be_encoded_is_refused_with_the_cure(height, width, message):
    with pytest.raises(MediaError, match=message):
        GopEncoder(FPS, quality=20).encode(film([1], height, width)[0][2], 0, 0)


@pytest.mark.parametrize("settings_", [{"quality": -1}, {"quality": 52}, {"quality": 20, "threads": 0}])
def test_settings_outside_what_x264_knows_are_refused(settings_):
    with pytest.raises(MediaError, match=r"is (-1|52|0);"):
        GopEncoder(FPS, **settings_)
