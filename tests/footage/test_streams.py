"""Transparency, interlaced pictures, and what else a file holds."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.colour import alpha_of
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.mux import check_output, rehearse, write_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.footage.timecode import timecode_after
from longtake.pipeline.media.read import count_film, stream_frames
from longtake.pipeline.models.upscaler import TINY_UPSCALER, Upscaler
from longtake.pipeline.testing.film_kinds import KINDS, Recipe
from longtake.pipeline.upscale_film import upscale
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import Handoff, UpscaleSpec
from tests.footage.field_pictures import write_fields
from tests.footage.footage_files import Film, make
from tests.footage.test_kinds import click_s
from tests.footage.test_write import segments

OPAQUE_REFERENCES = {"auto-alt-ref": "0"}  # libvpx keeps no transparency with others
MODEL = Upscaler.untrained(replace(TINY_UPSCALER, width=4, attentions=1, window=2))


def write_transparent(path, codec, pix_fmt, frames=6):
    """A film that is clear on the left, and less so with each picture on the right."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=OPAQUE_REFERENCES if codec == "libvpx" else {})
        stream.width, stream.height, stream.pix_fmt = 32, 32, pix_fmt
        for number in range(frames):
            rgba = np.full((32, 32, 4), 120, np.uint8)
            rgba[:, :16, 3], rgba[:, 16:, 3] = 0, 255 - 30 * number
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return str(path)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("b.mov", "png", "rgba"),
        ("c.mov", "qtrle", "argb"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("b.webm", "libvpx", "yuva420p"),
    ],
)
@pytest.mark.parametrize("target", ["ffv1", "prores"])
def test_transparency_is_enlarged_and_kept(tmp_path, name, codec, pix_fmt, target):
    footage = open_footage(write_transparent(tmp_path / name, codec, pix_fmt))
    encoding, path = FootageEncoding(target), tmp_path / "big.mkv"
    assert not [loss for loss in check_output(footage, encoding, path) if "alpha" in loss]
    spec = UpscaleSpec(segment_frames=3, codec=target, continuity=Handoff(), scene_threshold=0)
    upscale(footage, spec, MODEL, Output(str(path)))
    big = open_footage(str(path))
    assert (big.num_frames, "a" in big.pix_fmt) == (6, True)
    for number, picture in enumerate(read_pictures(big, range(6), alpha=True)):
        assert picture.shape == (4, 64, 64)
        assert picture[3, :, :24].mean() < 0.05
        assert picture[3, :, 40:].mean() == pytest.approx(1 - 30 * number / 255, abs=0.05)


def test_a_codec_without_transparency_says_which_ones_have_it(tmp_path):
    footage = open_footage(write_transparent(tmp_path / "a.mkv", "ffv1", "yuva420p"))
    losses = check_output(footage, FootageEncoding("h264"), tmp_path / "b.mp4")
    assert losses[0] == "alpha: h264 is written without it; --codec ffv1 or --codec prores keeps it"


def write_woven(path, frames=12):
    """A bar that moves from field to field."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": "tff=1:bframes=2:keyint=5", "qp": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(frames):
            rgb = np.full((64, 64, 3), 40, np.uint8)
            for field in (0, 1):
                at = 2 * (2 * number + field)
                rgb[field::2, at : at + 10] = 220
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb).reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return str(path)


def combs(picture):
    rows = picture[1]
    return (2 * rows[1:-1] - rows[:-2] - rows[2:]).abs().mean().item()


def test_interlaced_pictures_are_read_without_combs_from_anywhere(tmp_path):
    path = write_woven(tmp_path / "a.mp4")
    woven, whole = open_footage(path), open_footage(path, deinterlace="auto")
    assert (woven.deinterlaced, whole.deinterlaced, whole.pts) == (False, True, woven.pts)
    assert whole.fingerprint != woven.fingerprint
    pictures = list(read_pictures(whole, range(12)))
    combed = [combs(picture) for picture in read_pictures(woven, range(12))]
    assert max(combs(picture) for picture in pictures) < min(combed) / 8
    for start, stop in ((0, 1), (3, 7), (5, 6), (11, 12)):
        part = list(read_pictures(whole, range(start, stop)))
        assert all(torch.equal(one, other) for one, other in zip(part, pictures[start:stop], strict=True))
    assert "--deinterlace off" in whole.notes[-1]


def test_whole_pictures_are_not_deinterlaced(tmp_path):
    path = make(tmp_path / "a.mp4", Film())
    assert open_footage(path, deinterlace="auto") == open_footage(path)


@pytest.mark.parametrize(("start", "frames", "rate", "stop"), [
    ("00:00:59;29", 1, Fraction(30000, 1001), "00:01:00;02"),
    ("00:09:59;29", 1, Fraction(30000, 1001), "00:10:00;00"),
    ("00:00:00;00", 17982, Fraction(30000, 1001), "00:10:00;00"),
    ("01:00:59;58", 2, Fraction(60000, 1001), "01:01:00;04"),
    ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
    ("no timecode", 1, Fraction(25), "no timecode"),
])  # fmt: skip
def test_timecodes_count_frames(start, frames, rate, stop):
    assert timecode_after(start, frames, rate) == stop


def test_a_part_has_the_timecode_of_its_first_picture(tmp_path):
    make(tmp_path / "a.mov", Film(metadata={"timecode": "01:00:00;00"}))
    footage = open_footage(str(tmp_path / "a.mov"))
    write_footage(footage, segments(footage, frames=range(7, 14)), FootageEncoding(), tmp_path / "b.mov", range(7, 14))
    part = open_footage(str(tmp_path / "b.mov"))
    assert {**part.metadata, **part.stream_metadata}["timecode"][-2:] == "07"


def test_a_data_track_of_a_camera_is_kept_and_named_where_it_cannot_be(tmp_path):
    path = tmp_path / "a.mp4"
    data = (tmp_path / make(path, Film(subtitles="mov_text"))).read_bytes()
    for old, new in ((b"sbtl", b"meta"), (b"tx3g", b"gpmd")):
        data = data.replace(old, new)
    path.write_bytes(data)
    footage = open_footage(str(path))
    assert [other.kind for other in footage.others] == ["audio", "data"]
    assert check_output(footage, FootageEncoding(), tmp_path / "b.mp4") == ()
    losses = check_output(footage, FootageEncoding(), tmp_path / "b.mkv")
    assert any("data stream 2" in loss and ".mkv cannot hold it" in loss for loss in losses)
    write_footage(footage, segments(footage), FootageEncoding(), tmp_path / "b.mp4")
    packets = []
    for name in ("a.mp4", "b.mp4"):
        with av.open(str(tmp_path / name)) as container:
            packets.append([bytes(packet) for packet in container.demux(container.streams.data[0]) if packet.size])
    assert packets[0] == packets[1]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cover_stays_a_cover(tmp_path, suffix):
    Recipe(cover="last").write(tmp_path / "a.mp4")
    footage = open_footage(str(tmp_path / "a.mp4"))
    write_footage(footage, segments(footage), FootageEncoding(), tmp_path / f"b.{suffix}")
    with av.open(str(tmp_path / f"b.{suffix}")) as container:
        covers = [stream for stream in container.streams.video if stream.disposition & 1024]
        assert (len(container.streams.video), len(covers)) == (2, 1)


def test_what_an_encoder_or_a_muxer_refuses_is_refused_before_the_work(tmp_path):
    fast = open_footage(
        make(tmp_path / "a.mkv", Film(frames=4, time_base=Fraction(1, 300), pts=[0, 1, 2, 3], sounds=()))
    )
    with pytest.raises(MediaError, match="300 frames per second; libsvtav1 holds at most 240"):
        rehearse(replace(fast, frame_rate=Fraction(300)), FootageEncoding("av1"), 2, tmp_path / "b.mkv")
    for sound, suffix in (("pcm_s24be", "mov"), ("aac", "mp4"), ("flac", "mkv")):
        footage = open_footage(str(Recipe(sound=sound).write(tmp_path / f"{sound}.{suffix}")))
        for target in ("mp4", "mov", "mkv"):
            rehearse(footage, FootageEncoding(), 2, tmp_path / f"c.{target}")
            write_footage(footage, segments(footage), FootageEncoding(), tmp_path / f"c.{target}")


def element(name, content):
    content = content.to_bytes(4, "big") if isinstance(content, int) else content
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (len(content) | 1 << 56).to_bytes(8, "big") + content


def write_cropped(path, crop):
    """A Matroska file of two pictures 64x48, of which a player shows less: black at the top, white on the left."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuvj444p", Fraction(1, 25)
    rgb = np.full((48, 64, 3), 100, np.uint8)
    rgb[:8], rgb[8:, :16] = 0, 255
    blocks = b""
    for number in range(2):
        frame = av.VideoFrame.from_ndarray(rgb).reformat(format="yuvj444p")
        frame.pts = number
        data = b"".join(bytes(packet) for packet in encoder.encode(frame))
        blocks += element(0xA3, b"\x81" + (40 * number).to_bytes(2, "big") + b"\x80" + data)
    edges = b"".join(element(name, size) for name, size in zip((0x54BB, 0x54AA, 0x54CC, 0x54DD), crop, strict=True))
    video = element(0xE0, element(0xB0, 64) + element(0xBA, 48) + edges)
    track = element(0xD7, 1) + element(0x73C5, 1) + element(0x83, 1) + element(0x86, b"V_MJPEG") + video
    segment = element(0x1549A966, element(0x2AD7B1, 1_000_000)) + element(0x1654AE6B, element(0xAE, track))
    segment += element(0x1F43B675, element(0xE7, 0) + blocks)
    header = element(0x1A45DFA3, element(0x4282, b"matroska") + element(0x4287, 4) + element(0x4285, 2))
    path.write_bytes(header + element(0x18538067, segment))
    return str(path)


def test_what_a_matroska_file_crops_is_not_read(tmp_path):
    path = write_cropped(tmp_path / "a.mkv", (8, 0, 16, 0))
    footage = open_footage(path)
    assert (footage.width, footage.height, footage.num_frames) == (48, 40, 2)
    picture = next(read_pictures(footage, range(1)))
    assert picture.shape == (3, 40, 48)
    assert (picture - 100 / 255).abs().max() < 0.03
    assert next(stream_frames(path)).frames.shape == (2, 40, 48, 3)
    assert next(stream_frames(path, longest_side=24)).frames.shape == (2, 20, 24, 3)
    write_footage(footage, segments(footage), FootageEncoding(), tmp_path / "b.mkv")
    assert (open_footage(str(tmp_path / "b.mkv")).width, open_footage(str(tmp_path / "b.mkv")).height) == (96, 80)


@pytest.mark.parametrize("name", ["joined.ts", "ten-hours.ts", "trimmed.mp4", "raw.h264", "piped.avi", "hidden.webm"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_odd_files_are_written_in_sync(tmp_path, name, suffix):
    kind = next(kind for kind in KINDS if kind.name == name)
    footage, target = open_footage(kind.write(tmp_path)), tmp_path / f"out{suffix}"
    rehearse(footage, FootageEncoding(), 2, target)
    write_footage(footage, segments(footage), FootageEncoding(), target)
    film = open_footage(str(target))
    assert film.num_frames == footage.num_frames
    starts = [(pts - one.pts[0]) * one.time_base for one in (footage, film) for pts in one.pts[-1:]]
    assert float(starts[0]) == pytest.approx(float(starts[1]), abs=0.002)
    if kind.click_s is not None:
        first_s = float(film.pts[0] * film.time_base - film.start_s)
        assert click_s(str(target)) - first_s == pytest.approx(kind.click_s, abs=0.0025)


def test_the_transparency_of_packed_pictures_is_read():
    frame = av.VideoFrame.from_ndarray(np.full((4, 6, 4), 51, np.uint8), format="rgba")
    assert alpha_of(frame) == pytest.approx(0.2)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", ["a.h264", "a.mp4", "a.mkv", "a.ts"])
def test_pictures_that_are_coded_field_by_field_are_whole(tmp_path, name, apart):
    pictures = np.full((12, 32, 32), 60, np.uint8)
    for number, picture in enumerate(pictures):
        picture[0::2, 2 * number : 2 * number + 6] = picture[1::2, 2 * number + 1 : 2 * number + 7] = 200
    path = write_fields(tmp_path / name, pictures, apart)
    footage = open_footage(path)
    assert (footage.num_frames, footage.interlaced, footage.frame_rate) == (12, True, 25)
    wanted = torch.from_numpy(pictures).float().sub(16) / 219
    read = torch.stack([picture.mean(dim=0) for picture in read_pictures(footage, range(12))])
    assert (read - wanted).abs().max() < 0.01
    assert count_film(path).video.num_packets == sum(len(block.frames) for block in stream_frames(path)) == 12
    whole = list(read_pictures(open_footage(path, "skip", "auto"), range(12)))
    assert max(combs(picture) for picture in whole) < 0.2 * min(
        combs(picture[None].expand(3, -1, -1)) for picture in read
    )
