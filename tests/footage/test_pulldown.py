"""Telecined film: its own pictures at its own times, from any place; video and plain film stay as they are."""

from dataclasses import replace
from fractions import Fraction
from itertools import islice

import av
import pytest
import torch
from av.filter import Graph

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.colour import to_rgb
from longtake.pipeline.footage.cuts import small_pictures
from longtake.pipeline.footage.deinterlace import deinterlaced, deinterlacing
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.mux import check_output, write_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.footage.values import Colour
from longtake.pipeline.testing.film_kinds import Recipe
from tests.footage.test_write import segments

FILM_RATE, RATE = Fraction(24000, 1001), Fraction(30000, 1001)
INTERLACED = {"x264-params": "tff=1:bframes=2:keyint=20", "qp": "10"}


def drawn(*filters, rate=FILM_RATE, seconds=2):
    """Frames of a moving picture through FFmpeg's filters."""
    graph = Graph()
    nodes = [graph.add("testsrc2", size="160x120", rate=str(rate), duration=str(seconds))]
    nodes += [graph.add(name, **options) for name, options in filters]
    nodes += [graph.add("format", pix_fmts="yuv420p"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    while True:
        try:
            yield graph.vpull()
        except av.EOFError:
            return


def telecined(order="top", pattern="23", seconds=2):
    return drawn(("telecine", {"first_field": order, "pattern": pattern}), seconds=seconds)


def video(seconds=2):
    """Pictures whose second field is half a picture later."""
    fields = (
        ("setfield", {"mode": "tff"}),
        ("separatefields", {}),
        ("select", {"expr": "eq(mod(n,4),0)+eq(mod(n,4),3)"}),
        ("weave", {"first_field": "top"}),
    )
    return drawn(*fields, rate=2 * RATE, seconds=seconds)


def written(path, frames, codec="libx264", options=INTERLACED, tags=()):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.metadata.update(tags)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, 1 / RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return str(path)


@pytest.fixture(scope="module")
def film():
    return [torch.from_numpy(to_rgb(frame, Colour())) for frame in drawn()]


def numbers_of(pictures, film):
    found = []
    for picture in pictures:
        apart = [(picture - one).abs().mean().item() for one in film]
        assert min(apart) < 0.03
        found.append(apart.index(min(apart)))
    return found


@pytest.mark.parametrize(
    ("name", "order", "pattern", "options"),
    [
        ("marked.mp4", "top", "23", INTERLACED),
        ("unmarked.mp4", "top", "32", {"qp": "10"}),
        ("bottom.mkv", "bottom", "2332", {"qp": "10"}),
        ("dvd.ts", "top", "23", {"b": "8M", "flags": "+ildct+ilme"}),
    ],
)
def test_film_pictures_come_back_at_their_times(tmp_path, film, name, order, pattern, options):
    codec = "mpeg2video" if name == "dvd.ts" else "libx264"
    path = written(tmp_path / name, telecined(order, pattern), codec, options)
    footage = open_footage(path, deinterlace="auto")
    assert (footage.num_frames, footage.frame_rate) == (48, FILM_RATE)
    assert footage.pulldown.order == {"top": "tff", "bottom": "bff"}[order]
    whole = list(read_pictures(footage, range(48)))
    assert numbers_of(whole, film) == [*range(48)]
    for number, pts in enumerate(footage.pts):
        assert abs((pts - footage.pts[0]) * footage.time_base - number / FILM_RATE) <= footage.time_base
    for start, stop in ((0, 1), (9, 12), (30, 31), (46, 48)):
        part = list(read_pictures(footage, range(start, stop)))
        assert all(torch.equal(one, other) for one, other in zip(part, whole[start:stop], strict=True))
    assert [number for number, _ in small_pictures(footage, range(5, 12))] == [*range(5, 12)]
    assert "telecined: 48 film pictures" in check_output(footage, FootageEncoding(), tmp_path / "out.mp4")[0]
    assert open_footage(path, deinterlace="off").num_frames == 60


def test_video_between_film_keeps_its_pictures(tmp_path, film):
    footage = open_footage(written(tmp_path / "a.mp4", [*telecined(), *video(), *telecined()]), deinterlace="auto")
    assert footage.frame_rate is None
    assert 48 + 57 + 48 <= footage.num_frames <= 48 + 60 + 48
    pictures = list(read_pictures(footage, range(footage.num_frames)))
    assert numbers_of(pictures[:47] + pictures[-48:], film) == [*range(47), *range(48)]
    steps = [after - before for before, after in zip(footage.pts, footage.pts[1:], strict=False)]
    assert min(steps) > 0
    assert max(steps) * footage.time_base < 2 / FILM_RATE


@pytest.mark.parametrize("kind", ["film", "repeated", "video"])
def test_what_is_not_telecined_stays_as_it_is(tmp_path, kind):
    frames = {
        "film": drawn(rate=RATE),
        "repeated": drawn(("fps", {"fps": str(RATE)})),
        "video": video(),
    }[kind]
    path = written(tmp_path / "a.mp4", frames, options=INTERLACED if kind == "video" else {"qp": "10"})
    footage = open_footage(path, deinterlace="auto")
    assert (footage.num_frames, footage.pulldown, footage.deinterlaced) == (60, None, kind == "video")


def test_a_film_restored_is_written_with_the_timecode_of_its_recording(tmp_path):
    path = written(tmp_path / "a.mov", telecined(seconds=1), tags={"timecode": "01:00:00;00"})
    footage = open_footage(path, deinterlace="auto")
    write_footage(footage, segments(footage, frames=range(8, 16)), FootageEncoding(), tmp_path / "b.mov", range(8, 16))
    part = open_footage(str(tmp_path / "b.mov"))
    assert (part.num_frames, part.frame_rate) == (8, FILM_RATE)
    assert {**part.metadata, **part.stream_metadata}["timecode"] == "01:00:00;10"
    whole = replace(footage, pts=footage.pts[:8])
    assert whole.timecode_rate == RATE


def test_pictures_of_a_few_pixels_are_not_deinterlaced(tmp_path):
    footage = open_footage(str(Recipe("ffv1", None, "yuv444p", (1, 1)).write(tmp_path / "a.mkv")))
    assert not deinterlacing(replace(footage, interlaced=True), "auto").deinterlaced
    frame = av.VideoFrame(1, 1, "yuv444p")
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    with pytest.raises(MediaError, match="use --deinterlace off"):
        list(deinterlaced([(0, frame)]))


def test_pictures_whose_form_changes_are_filtered_apart():
    first, other = list(islice(video(), 6)), [frame.reformat(format="yuv422p") for frame in islice(video(), 6)]
    for number, frame in enumerate(together := [*first, *other, *first]):
        frame.pts = number
    out = list(deinterlaced(enumerate(together), "tff"))
    assert [number for number, _ in out] == [*range(18)]
    assert [frame.format.name for _, frame in out] == ["yuv420p"] * 6 + ["yuv422p"] * 6 + ["yuv420p"] * 6
