import dataclasses
import os
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import pytest
import torch
from einops import repeat

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.codecs import CODECS, FootageEncoding
from longtake.pipeline.footage.encode import FootageSegment, FootageSegmentEncoder
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.mux import check_output, write_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.footage.values import Colour
from tests.footage.footage_files import HDR, PQ, Film, make

UNEVEN = [0, *accumulate([1000, 500, 2777, 33, 5550, 1001, 999, 1, 4000, 250, 1234, 990, 1010, 64, 8000, 7, 3, 2, 1])]
ALL_OF_IT = Film(sounds=("eng", "fra"), subtitles="mov_text", chapters=True, metadata={"title": "Us", "artist": "We"})
H264 = FootageEncoding("h264")


def enlarged(footage, frames, scale=2):
    """Every pixel `scale` times wider and higher."""
    pictures = torch.stack(list(read_pictures(footage, frames)))
    return repeat(pictures, "f c h w -> f c (h a) (w b)", a=scale, b=scale)


def segment(footage, frames, encoding=H264, scale=2):
    encoder = FootageSegmentEncoder(footage, scale, encoding, frames)
    encoder.add(enlarged(footage, frames, scale))
    return encoder.finish()


def segments(footage, encoding=H264, frames=None, step=7, scale=2):
    frames = range(footage.num_frames) if frames is None else frames
    for start in range(frames.start, frames.stop, step):
        yield segment(footage, range(start, min(start + step, frames.stop)), encoding, scale)


def written(footage, path, encoding=H264, frames=None, scale=2):
    warnings = write_footage(footage, segments(footage, encoding, frames, scale=scale), encoding, path, frames)
    return open_footage(str(path)), warnings


def packets_of(path, kind):
    """Every stream of that kind: its packets' times in seconds and bytes."""
    with av.open(str(path)) as container:
        chosen = [stream for stream in container.streams if stream.type == kind]
        found = {stream.index: [] for stream in chosen}
        for packet in container.demux(chosen):
            if packet.pts is not None:
                found[packet.stream_index].append((packet.pts * packet.time_base, bytes(packet)))
        return list(found.values())


@pytest.mark.parametrize("codec", CODECS)
def test_a_segment_depends_on_its_own_pictures_alone(tmp_path, codec):
    footage = open_footage(make(tmp_path / "a.mkv", Film(frames=14)))
    encoding = FootageEncoding(codec)
    first, second = segments(footage, encoding)
    assert segment(footage, range(7, 14), encoding) == second
    one_by_one = FootageSegmentEncoder(footage, 2, encoding, range(7, 14))
    for picture in enlarged(footage, range(7, 14)):
        one_by_one.add(picture[None])
    assert one_by_one.finish() == second
    assert first.extradata == second.extradata
    assert [packet.pts for packet in second.packets] == list(footage.pts[7:])
    assert second.packets[0].keyframe
    assert FootageSegment.from_bytes(second.to_bytes()) == second


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mp4"), ("h264", ".mov"), ("hevc", ".mp4"), ("hevc", ".mkv"), ("av1", ".mp4")]
)
def test_pictures_times_and_sound_come_through_every_codec(tmp_path, codec, suffix):
    pts = [40 * one for one in UNEVEN] if suffix == ".mkv" else UNEVEN
    footage = open_footage(make(tmp_path / "a.mp4", Film(pts=pts)))
    film, warnings = written(footage, tmp_path / f"b{suffix}", FootageEncoding(codec))
    assert (film.width, film.height, film.num_frames) == (192, 128, 20)
    error = torch.stack(list(read_pictures(film, range(20)))) - enlarged(footage, range(20))
    assert error.abs().mean() < 0.015
    if suffix == ".mkv":
        assert any("milliseconds" in warning for warning in warnings)
        assert any("21 ms later" in warning for warning in warnings)
        return
    assert warnings == ()
    assert (film.pts, film.time_base) == (footage.pts, footage.time_base)
    assert film.durations == footage.durations
    assert packets_of(tmp_path / "a.mp4", "audio") == packets_of(tmp_path / f"b{suffix}", "audio")


def test_ffv1_is_lossless_but_for_the_codes_of_the_source(tmp_path):
    film = Film(codec="ffv1", pix_fmt="yuv444p", options={}, sounds=())
    footage = open_footage(make(tmp_path / "a.mkv", film))
    again, warnings = written(footage, tmp_path / "b.mkv", FootageEncoding("ffv1"))
    assert warnings == ()
    assert torch.equal(torch.stack(list(read_pictures(again, range(20)))), enlarged(footage, range(20)))
    assert again.pts == footage.pts


@pytest.mark.parametrize("segment_frames", [1, 2, 20])
def test_segments_of_any_length_decode_to_what_was_meant(tmp_path, segment_frames):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    path = tmp_path / "b.mp4"
    write_footage(footage, segments(footage, step=segment_frames), H264, path)
    film = open_footage(str(path))
    error = torch.stack(list(read_pictures(film, range(20)))) - enlarged(footage, range(20))
    assert error.abs().mean(dim=(1, 2, 3)).max() < 0.015
    assert film.keyframes == tuple(range(0, 20, segment_frames))


@pytest.mark.parametrize(
    ("codec", "suffix"), [("hevc", ".mp4"), ("hevc", ".mkv"), ("h264", ".mp4"), ("av1", ".mp4"), ("ffv1", ".mkv")]
)
def test_hdr_stays_hdr(tmp_path, codec, suffix):
    film = Film(frames=3, codec="libx265", pix_fmt="yuv420p10le", options=HDR, colour=PQ)
    footage = open_footage(make(tmp_path / "a.mp4", film))
    again, _ = written(footage, tmp_path / f"b{suffix}", FootageEncoding(codec))
    assert (again.colour, again.bit_depth, again.light_level) == (Colour(*PQ), 10, footage.light_level)
    for field in ("white_point", "luminance"):
        wanted, got = getattr(footage.mastering, field), getattr(again.mastering, field)
        assert [float(value) for value in got] == pytest.approx([float(value) for value in wanted], abs=1e-4)
    if suffix == ".mp4":
        assert b"mdcv" in (tmp_path / "b.mp4").read_bytes()
    error = torch.stack(list(read_pictures(again, range(3)))) - enlarged(footage, range(3))
    assert error.abs().mean() < 0.015


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "gray"])
@pytest.mark.parametrize("full", [1, 2])
def test_chroma_layout_range_and_tags_are_the_sources(tmp_path, pix_fmt, full):
    film = Film(frames=2, pix_fmt=pix_fmt, codec="ffv1", options={}, colour=(6, 6, 6, full))
    footage = open_footage(make(tmp_path / "a.mkv", film))
    again, _ = written(footage, tmp_path / "b.mp4", H264)
    assert again.colour == footage.colour
    assert pix_fmt == "gray" or (again.pix_fmt.replace("yuvj", "yuv"), again.colour.matrix) == (pix_fmt, 6)
    error = torch.stack(list(read_pictures(again, range(2)))) - enlarged(footage, range(2))
    assert error.abs().mean() < 0.015


def test_untagged_footage_that_grows_into_high_definition_keeps_its_colours(tmp_path):
    footage = open_footage(make(tmp_path / "a.mkv", Film(frames=1, width=64, height=240, codec="ffv1", options={})))
    again, _ = written(footage, tmp_path / "b.mkv", FootageEncoding("ffv1"), scale=4)
    assert (again.colour.matrix, again.height) == (2, 960)
    error = next(read_pictures(again, range(1))) - enlarged(footage, range(1), 4)[0]
    assert error.abs().mean() < 0.005


def test_everything_else_in_the_file_comes_along(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", ALL_OF_IT))
    film, warnings = written(footage, tmp_path / "b.mp4")
    assert warnings == ()
    for kind in ("audio", "subtitle"):
        assert packets_of(tmp_path / "a.mp4", kind) == packets_of(tmp_path / "b.mp4", kind)
    assert [str(other) for other in film.others] == [str(other) for other in footage.others]
    chapters = [
        [(one.title, one.start * one.time_base, one.stop * one.time_base) for one in each.chapters]
        for each in (footage, film)
    ]
    assert chapters[0] == chapters[1]
    assert film.metadata["title"] == "Us"
    assert film.metadata["artist"] == "We"
    assert film.stream_metadata == footage.stream_metadata


def test_matroska_keeps_attachments_and_subtitles(tmp_path):
    source = Film(sounds=("eng", "fra"), subtitles="subrip", chapters=True, attachment=True, metadata={"title": "Us"})
    footage = open_footage(make(tmp_path / "a.mkv", source))
    film, warnings = written(footage, tmp_path / "b.mkv")
    assert warnings == ()
    assert (film.pts, film.others) == (footage.pts, footage.others)
    assert film.chapters == footage.chapters
    for kind in ("audio", "subtitle"):
        assert packets_of(tmp_path / "a.mkv", kind) == packets_of(tmp_path / "b.mkv", kind)
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert container.streams[4].data == bytes(range(200))


def test_what_a_container_cannot_hold_is_said_before_and_after(tmp_path):
    source = Film(subtitles="subrip", attachment=True)
    footage = open_footage(make(tmp_path / "a.mkv", source))
    film, warnings = written(footage, tmp_path / "b.mp4")
    assert warnings == check_output(footage, H264, tmp_path / "b.mp4")
    assert warnings == (
        "subtitle stream 2 (srt, deu) is left out: .mp4 cannot hold it",
        "attachment stream 3 (letters.ttf, letters.ttf) is left out: .mp4 cannot hold it",
    )
    assert [other.kind for other in film.others] == ["audio"]


def test_a_language_that_quicktime_has_no_code_for_is_said(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", ALL_OF_IT))
    assert check_output(footage, H264, tmp_path / "b.mov") == (
        "subtitle stream 3 (mov_text, deu) is written without its language, which .mov has no code for",
    )


def test_what_a_codec_cannot_hold_is_said(tmp_path):
    film = Film(frames=1, codec="ffv1", pix_fmt="yuv444p12le", options={}, sounds=())
    footage = open_footage(make(tmp_path / "a.mkv", film))
    said = check_output(footage, FootageEncoding("av1"), tmp_path / "b.mkv")
    assert said == ("12 bits: av1 holds 10", "444 chroma: av1 holds 4:2:0")
    assert check_output(footage, FootageEncoding("ffv1"), tmp_path / "b.mkv") == ()
    assert "deinterlace" in " ".join(
        check_output(dataclasses.replace(footage, interlaced=True), H264, tmp_path / "b.mp4")
    )


def test_tags_that_only_quicktime_has_a_place_for_are_kept(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    tags = {"title": "Us", "com.apple.quicktime.location.ISO6709": "+48.1+011.5/"}
    film, _ = written(dataclasses.replace(footage, metadata=tags), tmp_path / "b.mp4")
    assert {name: film.metadata.get(name) for name in tags} == tags


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation_and_pixel_shape_are_kept(tmp_path, suffix):
    matrix = (0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)
    footage = open_footage(make(tmp_path / "a.mp4", Film(frames=3, matrix=matrix, shape=Fraction(4, 3))))
    film, _ = written(footage, tmp_path / f"b{suffix}")
    assert (film.rotation, film.sample_aspect_ratio) == (footage.rotation, footage.sample_aspect_ratio)
    if suffix == ".mp4":
        assert film.display_matrix == (*matrix[:6], 128 << 16, *matrix[7:])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_part_begins_at_zero_with_what_sounds_and_is_read_then(tmp_path, suffix):
    subtitles = {".mp4": "mov_text", ".mkv": "subrip"}[suffix]
    film = dataclasses.replace(ALL_OF_IT, subtitles=subtitles)
    footage = open_footage(make(tmp_path / f"a{suffix}", film))
    part, _ = written(footage, tmp_path / f"b{suffix}", frames=range(5, 15))
    start = footage.pts[5]
    assert [pts * part.time_base for pts in part.pts] == [
        (pts - start) * footage.time_base for pts in footage.pts[5:15]
    ]
    kept = packets_of(tmp_path / f"b{suffix}", "audio")[0]
    source = {data: time_s for time_s, data in packets_of(tmp_path / f"a{suffix}", "audio")[0]}
    assert all(abs(source[data] - start * footage.time_base - time_s) < Fraction(1, 900) for time_s, data in kept)
    assert 15 <= len(kept) <= 17
    lines = [(time_s, data) for time_s, data in packets_of(tmp_path / f"b{suffix}", "subtitle")[0] if len(data) > 2]
    assert [(float(time_s), data[-5:]) for time_s, data in lines] == [
        (0.0, b"Hello"),
        (pytest.approx(0.2333, abs=1e-3), b"World"),
    ]
    assert [float(one.start * one.time_base) for one in part.chapters] == pytest.approx([0, 0.133], abs=1e-3)
    assert float(part.chapters[-1].stop * part.chapters[-1].time_base) == pytest.approx(1 / 3, abs=1e-3)


def test_sound_that_begins_later_stays_later(tmp_path):
    film = Film(pts=[15_000 + 1000 * number for number in range(20)])
    footage = open_footage(make(tmp_path / "a.mp4", film))
    again, _ = written(footage, tmp_path / "b.mp4")
    assert [pts * again.time_base for pts in again.pts] == [pts * footage.time_base for pts in footage.pts]
    assert footage.pts[0] > 0
    assert packets_of(tmp_path / "a.mp4", "audio") == packets_of(tmp_path / "b.mp4", "audio")


@pytest.mark.parametrize("film", [Film(frames=1, sounds=()), Film(frames=2, width=175, height=99, pix_fmt="yuv444p")])
def test_one_picture_and_odd_sizes_are_written(tmp_path, film):
    footage = open_footage(make(tmp_path / "a.mp4", film))
    again, warnings = written(footage, tmp_path / "b.mp4")
    assert (again.width, again.height, again.num_frames) == (2 * film.width, 2 * film.height, film.frames)
    assert warnings == ()


def test_a_transport_stream_becomes_a_file_in_sync(tmp_path):
    footage = open_footage(make(tmp_path / "a.ts", Film()))
    film, _ = written(footage, tmp_path / "b.mp4")
    start = footage.start_s / footage.time_base
    assert start > 0, "the muxer's clock does not begin at 0, and players subtract where it begins"
    assert (film.pts, film.time_base) == (tuple(pts - start for pts in footage.pts), footage.time_base)
    one, other = packets_of(tmp_path / "a.ts", "audio")[0], packets_of(tmp_path / "b.mp4", "audio")[0]
    assert len(one) == len(other)
    assert all(
        abs(before[0] - footage.start_s - after[0]) < Fraction(1, 10_000)
        for before, after in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_same_segments_give_the_same_file(tmp_path, suffix):
    footage = open_footage(make(tmp_path / "a.mp4", ALL_OF_IT))
    kept = list(segments(footage))
    paths = [tmp_path / f"{name}{suffix}" for name in "bc"]
    for path in paths:
        write_footage(footage, iter(kept), H264, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_segments_are_asked_for_one_at_a_time(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    path = tmp_path / "b.mp4"
    asked = []

    def told():
        for one in segments(footage, step=5):
            asked.append((one.frames.start, path.exists()))
            yield one

    write_footage(footage, told(), H264, path)
    assert asked == [(0, False), (5, True), (10, True), (15, True)]


def test_segments_that_do_not_fit_are_refused_and_leave_no_file(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    one, two, three = segments(footage)
    path = tmp_path / "b.mp4"
    shorter = dataclasses.replace(two, packets=two.packets[:-1])
    other = dataclasses.replace(two, extradata=two.extradata + b"\0")
    for wrong, message in (
        ([], "no segment"),
        ([one, three], "where picture 7 was due"),
        ([one, two], "end at picture 13, the film at 19"),
        ([one, shorter, three], "holds 6 packets"),
        ([one, other, three], "encoded otherwise"),
    ):
        with pytest.raises(MediaError, match=message):
            write_footage(footage, iter(wrong), H264, path)
        assert not path.exists()


def test_pictures_that_do_not_fit_their_segment_are_refused(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    encoder = FootageSegmentEncoder(footage, 2, H264, range(3, 5))
    with pytest.raises(MediaError, match=r"\[1, 3, 64, 96\] do not fit"):
        encoder.add(torch.zeros(1, 3, 64, 96))
    encoder.add(torch.zeros(1, 3, 128, 192))
    with pytest.raises(MediaError, match="1 of 2 pictures"):
        encoder.finish()
    with pytest.raises(MediaError, match="got 3 pictures"):
        encoder.add(torch.zeros(2, 3, 128, 192))


def test_wishes_that_cannot_be_are_refused_with_the_cure(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    for storyboard, message in (
        ({"codec": "vp9"}, "known are h264, hevc, av1, ffv1"),
        ({"quality": 52}, "0 .best. to 51"),
        ({"threads": 0}, "at least 1"),
    ):
        with pytest.raises(MediaError, match=message):
            FootageEncoding(**storyboard)
    with pytest.raises(MediaError, match=r"ffv1 is written to \.mkv"):
        check_output(footage, FootageEncoding("ffv1"), tmp_path / "b.mp4")
    close = open_footage(make(tmp_path / "c.mp4", Film(pts=UNEVEN)))
    with pytest.raises(MediaError, match=r"pictures 7 and 8 .* less than a millisecond apart.*\.mp4"):
        check_output(close, H264, tmp_path / "b.mkv")
    with pytest.raises(MediaError, match="is the footage itself"):
        check_output(footage, H264, tmp_path / "a.mp4")


@pytest.mark.parametrize("cut", [3, 40, -1])
def test_a_damaged_segment_is_refused(tmp_path, cut):
    footage = open_footage(make(tmp_path / "a.mp4", Film(frames=2)))
    data = segment(footage, range(2)).to_bytes()
    with pytest.raises(MediaError, match="make it again"):
        FootageSegment.from_bytes(data[:cut])


def test_no_encoder_keeps_a_real_time_priority(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film(frames=2)))
    encoder = FootageSegmentEncoder(footage, 2, FootageEncoding("av1"), range(2))
    policies = {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}
    assert policies == {os.SCHED_OTHER}
    for picture in enlarged(footage, range(2)):
        encoder.add(picture[None])
    assert len(encoder.finish().packets) == 2
