"""Films of every kind that players play: a table of small files, each made in a moment with PyAV.

Every film has 12 pictures at 25 a second, picture n as bright as `code(n)`, and a click in its sound at
CLICK_S after its first picture, unless the kind says otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from longtake.pipeline.media.ffmpeg import same_scheduling

PICTURES, RATE, SAMPLE_RATE = 12, 25, 48_000
CLICK_S = 0.2


def code(number: int) -> int:
    """The brightness of a picture."""
    return 40 + 15 * (number % 12)


@dataclass(frozen=True)
class Recipe:
    """A film as FFmpeg's encoders and muxers write it."""

    codec: str = "libx264"
    sound: str | None = "aac"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (32, 32)
    options: dict[str, str] = field(default_factory=dict)
    container: str | None = None
    muxer: dict[str, str] = field(default_factory=dict)
    pts: tuple[int, ...] | None = None
    layout: str = "mono"
    matrix: tuple[int, ...] | None = None
    shape: Fraction | None = None
    cover: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    num_pictures: int = PICTURES
    rate: Fraction = Fraction(RATE)
    sound_rate: int = SAMPLE_RATE
    sound_first: bool = False

    def write(self, path: Path) -> Path:
        """Write the film to `path`."""
        with same_scheduling(), av.open(str(path), "w", format=self.container, options=self.muxer) as out:
            cover = _cover(out) if self.cover == "first" else None
            sound = self._sound_stream(out) if self.sound_first else None
            video = self._video(out)
            sound = self._sound_stream(out) if self.sound and sound is None else sound
            cover = _cover(out) if self.cover == "last" else cover
            out.metadata.update(self.tags)
            if cover is not None:
                _mux_cover(out, cover)
            for number in range(self.num_pictures):
                out.mux(video.encode(self._picture(number)))
                if sound is not None and number == 0:
                    for frame in self._sound(sound):
                        out.mux(sound.encode(frame))
            out.mux(video.encode(None))
            if sound is not None:
                out.mux(sound.encode(None))
        return path

    def _sound_stream(self, out: Any) -> Any:
        return out.add_stream(self.sound, rate=self.sound_rate, layout=self.layout)

    def _video(self, out: Any) -> Any:
        video = out.add_stream(self.codec, rate=self.rate, options=self.options)
        video.width, video.height = self.size
        video.pix_fmt = self.pix_fmt
        video.codec_context.thread_count = 1
        if self.pts is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        if self.shape is not None:
            video.codec_context.sample_aspect_ratio = self.shape
        if self.matrix is not None:
            video.set_display_matrix(self.matrix)
        return video

    def _picture(self, number: int) -> Any:
        width, height = self.size
        grey = np.full((height, width, 3), code(number), np.uint8)
        frame = av.VideoFrame.from_ndarray(grey).reformat(format=self.pix_fmt, threads=1)
        frame.pts, frame.time_base = number, 1 / self.rate
        if self.pts is not None:
            frame.pts, frame.time_base = self.pts[number], Fraction(1, 1000)
        return frame

    def _sound(self, stream: Any) -> list[Any]:
        seconds, frames = self.num_pictures / self.rate, []
        channels = stream.layout.nb_channels
        total = round(seconds * self.sound_rate)
        pcm = np.zeros((channels, total), np.int16)
        at = round(CLICK_S * self.sound_rate)
        pcm[:, at : at + 24] = 30_000
        for start in range(0, total, 480):
            part = np.ascontiguousarray(pcm[:, start : start + 480].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=stream.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = self.sound_rate, start, Fraction(1, self.sound_rate)
            frames.append(frame)
        return frames


def _cover(out: Any) -> Any:
    cover = out.add_stream("mjpeg", rate=1)
    cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
    cover.disposition = Disposition.attached_pic
    return cover


def _mux_cover(out: Any, cover: Any) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 200, np.uint8)).reformat(format="yuvj420p")
    frame.pts = 0
    out.mux(cover.encode(frame))
    out.mux(cover.encode(None))


@dataclass(frozen=True)
class Kind:
    """A file of the table.

    Args:
        name: of the file.
        make: writes it.
        pictures: how many it presents.
        first: the number of its first picture among those of the recipe.
        click_s: where the click is, from the film's start; None for silent films, or if the codec blurs it.
        numbers: which picture each is, if they are not those from `first` on.
    """

    name: str
    make: Callable[[Path], Any]
    pictures: int = PICTURES
    first: int = 0
    click_s: float | None = CLICK_S
    numbers: tuple[int, ...] | None = None

    def write(self, folder: Path) -> str:
        """Write it into `folder`; its path."""
        path = folder / self.name
        self.make(path)
        return str(path)


def remuxed(source: Path, target: Path, change: Callable[[Any], Any] | None = None, **opening: Any) -> None:
    """Copy all packets of `source`; `change` may move a packet, or leave it out by returning None."""
    with av.open(str(source)) as old, av.open(str(target), "w", **opening) as new:
        streams = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        for packet in old.demux():
            if packet.size and (change is None or change(packet) is not None):
                packet.stream = streams[packet.stream_index]
                new.mux_one(packet)


def _via(recipe: Recipe, suffix: str, change: Callable[[Path, Path], None]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        source = path.with_name(f"source-{path.stem}{suffix}")
        recipe.write(source)
        change(source, path)

    return make


def edited(recipe: Recipe, media_time: float, seconds: float) -> Callable[[Path], None]:
    """An MP4 whose edit lists show `seconds` from `media_time` on, as a phone trims it."""

    def make(path: Path) -> None:
        recipe.write(path)
        data = bytearray(path.read_bytes())
        movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 4 + 12)[0]
        at = 0
        while (at := data.find(b"elst", at + 4)) > 0:
            scale = struct.unpack_from(">I", data, data.index(b"mdhd", at) + 4 + 12)[0]
            before = struct.unpack_from(">i", data, at + 16)[0]
            struct.pack_into(">Ii", data, at + 12, round(seconds * movie_scale), before + round(media_time * scale))
        path.write_bytes(data)

    return make


def _shifted(seconds: float) -> Callable[[Any], Any]:
    def change(packet: Any) -> Any:
        shift = round(seconds / packet.time_base)
        packet.pts = packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift
        return packet

    return change


def _appended(data: bytes) -> Callable[[Path, Path], None]:
    def change(source: Path, path: Path) -> None:
        path.write_bytes(source.read_bytes() + data)

    return change


def _joined(source: Path, path: Path) -> None:
    path.write_bytes(2 * source.read_bytes())


class Pipe:
    """A file that cannot seek, as standard output of FFmpeg."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        """Write, as a muxer asks for it."""
        return self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def piped(recipe: Recipe, container: str) -> Callable[[Path], None]:
    """The film written to a pipe."""

    def make(path: Path) -> None:
        source = path.with_name(f"source-{path.name}.mkv")
        recipe.write(source)
        pipe = Pipe(path)
        with av.open(str(source)) as old, av.open(pipe, "w", format=container) as new:
            streams = [new.add_stream_from_template(stream, opaque=True) for stream in old.streams]
            for packet in old.demux():
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    new.mux_one(packet)
        pipe.close()

    return make


def _dropped(source: Path, path: Path) -> None:
    """An AVI whose every third picture is an empty chunk: the capture dropped it."""
    data, at, number = bytearray(source.read_bytes()), 0, 0
    movi = data.index(b"movi")
    at = movi + 4
    out = bytearray(data[:at])
    while bytes(data[at : at + 4]) in {b"00dc", b"01wb"}:
        size = struct.unpack_from("<I", data, at + 4)[0]
        chunk = data[at : at + 8 + size + size % 2]
        if data[at : at + 4] == b"00dc":
            number += 1
            chunk = bytearray(b"00dc\0\0\0\0") if number % 3 == 0 else chunk
        out += chunk
        at += 8 + size + size % 2
    struct.pack_into("<I", out, movi - 4, len(out) - movi)
    struct.pack_into("<I", out, 4, len(out) - 8)
    path.write_bytes(out)


INTRA = {"g": "1"}
PLAIN = Recipe()
SILENT = Recipe(sound=None)
B_FRAMES = {"bf": "2", "g": "6", "x264-params": "b-adapt=0:scenecut=0"}
TURN = (0, 65536, 0, -65536, 0, 0, 32 << 16, 0, 1 << 30)


def _simple(name: str, recipe: Recipe, **known: Any) -> Kind:
    known.setdefault("click_s", CLICK_S if recipe.sound else None)
    return Kind(name, recipe.write, **known)


def _by_codec() -> list[Kind]:
    """Each codec in the containers that are usual for it."""
    lossy = {"q:v": "2", "qmin": "1"}
    usual: list[tuple[str, Recipe, tuple[str, ...]]] = [
        ("h264", Recipe(options=B_FRAMES), ("mp4", "mov", "mkv", "ts", "flv", "nut", "3gp", "m4v")),
        ("h264-444", Recipe(pix_fmt="yuv444p"), ("mp4", "mkv")),
        ("h264-10", Recipe(pix_fmt="yuv420p10le"), ("mp4", "mkv")),
        ("hevc", Recipe(codec="libx265", options={"x265-params": "log-level=none:pools=none"}), ("mp4", "mkv", "ts")),
        ("av1", Recipe(codec="libsvtav1", size=(64, 64), options={"preset": "12"}), ("mp4", "mkv", "webm")),
        ("vp8", Recipe(codec="libvpx", options={"deadline": "realtime"}), ("webm", "mkv")),
        ("vp9", Recipe(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}), ("webm", "mp4", "mkv")),
        ("mpeg4", Recipe(codec="mpeg4", options={"bf": "2"} | lossy), ("mp4", "mkv")),
        ("mpeg2", Recipe(codec="mpeg2video", sound="mp2", options=lossy), ("mpg", "ts", "mkv", "vob")),
        ("mpeg1", Recipe(codec="mpeg1video", sound="mp2", options=lossy), ("mpg",)),
        ("mjpeg", Recipe(codec="mjpeg", sound="pcm_s16le", pix_fmt="yuvj420p", options=lossy), ("avi", "mov", "mkv")),
        ("prores", Recipe(codec="prores_ks", sound="pcm_s16le", pix_fmt="yuv422p10le"), ("mov", "mkv")),
        ("ffv1", Recipe(codec="ffv1", sound="flac"), ("mkv", "nut")),
        ("raw", Recipe(codec="rawvideo", sound="pcm_s16le"), ("avi", "mkv", "nut")),
        ("huffyuv", Recipe(codec="huffyuv", sound="pcm_s16le", pix_fmt="yuv422p"), ("avi", "nut")),
        ("utvideo", Recipe(codec="utvideo", sound="pcm_s16le"), ("avi",)),
        ("wmv", Recipe(codec="wmv2", sound="pcm_s16le", options=lossy), ("wmv",)),
        ("flv1", Recipe(codec="flv", sound="mp3", sound_rate=44_100, options=lossy), ("flv",)),
        ("png", Recipe(codec="png", sound="pcm_s16le", pix_fmt="rgb24"), ("mov", "avi")),
        ("qtrle", Recipe(codec="qtrle", sound="pcm_s16le", pix_fmt="rgb24"), ("mov",)),
        ("gif", Recipe(codec="gif", sound=None, pix_fmt="gray"), ("gif",)),
        ("apng", Recipe(codec="apng", sound=None, pix_fmt="rgb24"), ("apng",)),
        ("y4m", Recipe(codec="wrapped_avframe", sound=None), ("y4m",)),
    ]
    kinds = []
    for codec, recipe, containers in usual:
        for container in containers:
            own = replace(recipe, sound="libopus") if container == "webm" else recipe
            kinds.append(_simple(f"{codec}.{container}", own))
    return kinds


def _by_sound() -> list[Kind]:
    """Each codec of sound, with its priming, and each number of channels."""
    kinds = [
        ("aac", "mp4"), ("aac", "mkv"), ("libmp3lame", "mp4"), ("libmp3lame", "mkv"),
        ("libopus", "mp4"), ("libopus", "webm"), ("flac", "mkv"), ("ac3", "mp4"), ("ac3", "ts"),
        ("eac3", "mkv"), ("alac", "mov"), ("pcm_s24be", "mov"), ("libopus", "ts"),
    ]  # fmt: skip
    vp9 = Recipe(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    table = [
        _simple(f"{codec}-sound.{container}", replace(vp9 if container == "webm" else PLAIN, sound=codec))
        for codec, container in kinds
    ]
    for layout in ("stereo", "5.1", "7.1"):
        for codec, container in (("aac", "mp4"), ("flac", "mkv"), ("libopus", "mkv")):
            name = f"{codec}-{layout.replace('.', '')}.{container}"
            table.append(_simple(name, replace(PLAIN, sound=codec, layout=layout)))
    return table


def _by_clock() -> list[Kind]:
    """Clocks, edit lists, joins, and what is around the film in its file."""
    uneven = tuple(40 * n + (17 if n % 3 else 0) for n in range(PICTURES))
    trimmed = Recipe(options=B_FRAMES, num_pictures=PICTURES)
    asp = Recipe(codec="mpeg4", sound="pcm_s16le", options={"bf": "2", "q:v": "2"})
    return [
        _simple("b-frames.avi", asp, click_s=CLICK_S - 0.04),  # AVI has no times: FFmpeg shows the first one late
        Kind("trimmed.mp4", edited(trimmed, 0.12, 0.2), pictures=5, first=3, click_s=CLICK_S - 0.12),
        Kind("trimmed.mov", edited(trimmed, 0.08, 0.24), pictures=6, first=2, click_s=CLICK_S - 0.08),
        Kind("trimmed-intra.mp4", edited(replace(PLAIN, options=INTRA), 0.2, 0.2), pictures=5, first=5, click_s=None),
        Kind("ten-hours.ts", _via(PLAIN, ".ts", lambda s, t: remuxed(s, t, _shifted(36_000)))),
        Kind("ten-hours.mkv", _via(PLAIN, ".mkv", lambda s, t: remuxed(s, t, _shifted(36_000)))),
        Kind("ten-hours.mp4", _via(PLAIN, ".mp4", lambda s, t: remuxed(s, t, _shifted(36_000)))),
        Kind("wrapped.ts", _via(PLAIN, ".ts", lambda s, t: remuxed(s, t, _shifted(2**33 / 90_000 - 1.6)))),
        Kind("joined.ts", _via(replace(PLAIN, options=B_FRAMES), ".ts", _joined), 24, numbers=(*range(12), *range(12))),
        Kind("joined.mpg", _via(Recipe(codec="mpeg2video", sound="mp2", options={"q:v": "2"}), ".mpg", _joined), 24,
             numbers=(*range(12), *range(12))),
        Kind("trailing.mp4", _via(PLAIN, ".mp4", _appended(b"\x91\x17\xa3\x05 no box at all " * 9))),
        Kind("trailing-text.mov", _via(PLAIN, ".mov", _appended(b"appended by a camera\n" * 20))),
        Kind("piped.avi", piped(Recipe(codec="mpeg4", sound="pcm_s16le", options={"q:v": "2"}), "avi")),
        Kind("piped.mkv", piped(PLAIN, "matroska")),
        Kind("dropped.avi", _via(Recipe(codec="mjpeg", sound=None, pix_fmt="yuvj420p", options={"q:v": "2"}), ".avi",
             _dropped), 8, click_s=None, numbers=(0, 1, 3, 4, 6, 7, 9, 10)),
        _simple("fragments.mp4", replace(PLAIN, muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"})),
        _simple("in-front.mp4", replace(PLAIN, muxer={"movflags": "faststart"})),
        _simple("uneven.mp4", replace(PLAIN, pts=uneven)),
        _simple("uneven.mkv", replace(PLAIN, pts=uneven)),
        _simple("raw.h264", replace(SILENT, options=B_FRAMES, container="h264")),
        _simple("raw.hevc", Recipe("libx265", None, options={"x265-params": "log-level=none:pools=none"})),
        _simple("raw.m4v", Recipe("mpeg4", None, container="m4v", options={"q:v": "2"})),
        _simple("cover-last.mp4", replace(PLAIN, cover="last")),
        _simple("cover-first.mp4", replace(PLAIN, cover="first")),
        _simple("one.mp4", replace(PLAIN, num_pictures=1), pictures=1, click_s=None),
        _simple("turned.mp4", replace(PLAIN, matrix=TURN)),
        _simple("wide-pixels.mp4", replace(PLAIN, shape=Fraction(4, 3))),
        _simple("open.mp4", replace(PLAIN, options={"bf": "3", "g": "4", "x264-params": "open-gop=1:b-adapt=0"})),
        _simple("gradual.mkv", replace(PLAIN, options={"bf": "0", "x264-params": "intra-refresh=1:keyint=4"})),
        _simple("hidden.webm", Recipe("libvpx", "libopus", options={"auto-alt-ref": "1", "lag-in-frames": "8"})),
    ]  # fmt: skip


def _by_device() -> list[Kind]:
    """What cameras, broadcasters, editors and screen recorders write."""
    pcm, lossy = "pcm_s16le", {"q:v": "2", "qmin": "1"}
    tape = Recipe("dvvideo", pcm, size=(720, 576), layout="stereo")
    camera = Recipe(options={**B_FRAMES, "x264-params": "tff=1"}, sound="ac3", size=(64, 64))
    table: list[tuple[str, Recipe]] = [
        ("tape.dv", tape),
        ("xdcam.mxf", Recipe("mpeg2video", pcm, options=lossy)),
        ("dnxhr.mxf", Recipe("dnxhd", pcm, "yuv422p", (256, 128), {"profile": "dnxhr_hq"})),
        ("dnxhr.mov", Recipe("dnxhd", pcm, "yuv422p", (256, 128), {"profile": "dnxhr_hq"})),
        ("avchd.mts", replace(camera, container="mpegts", muxer={"mpegts_m2ts_mode": "1"})),
        ("camera.3gp", Recipe("h263", "libopencore_amrnb", size=(128, 96), options=lossy, sound_rate=8000)),
        ("camera.3g2", Recipe("mpeg4", "aac", options=lossy)),
        ("cineform.mov", Recipe("cfhd", pcm, "yuv422p10le", (64, 32))),
        ("v210.mov", Recipe("v210", "pcm_s24le", "yuv422p10le")),
        ("v410.mov", Recipe("v410", "pcm_s24le", "yuv444p10le")),
        ("jpeg2000.mov", Recipe("jpeg2000", pcm, "yuv444p", options={"pred": "1"})),
        ("exr.mov", Recipe("exr", None, "gbrpf32le")),
        ("dpx.mov", Recipe("dpx", None, "rgb24")),
        ("tiff.mov", Recipe("tiff", None, "rgb24")),
        ("magic.avi", Recipe("magicyuv", pcm, "gbrp")),
        ("sixteen.mkv", Recipe("ffv1", "flac", "yuv444p16le")),
        ("sixteen-rgb.mkv", Recipe("ffv1", None, "gbrp16le")),
        ("sixteen-grey.mkv", Recipe("ffv1", None, "gray16le")),
        ("grey.avi", Recipe("rawvideo", pcm, "gray")),
        ("packed.avi", Recipe("rawvideo", pcm, "yuyv422")),
        ("screen.avi", Recipe("zmbv", pcm, "bgr0")),
        ("screen.flv", Recipe("flashsv", None, "bgr24")),
        ("cinepak.avi", Recipe("cinepak", pcm, "rgb24", options=lossy)),
        ("sorenson.mov", Recipe("svq1", pcm, "yuv410p", options=lossy)),
        ("snow.avi", Recipe("snow", pcm, options={"pred": "1", **lossy})),
        ("dirac.mkv", Recipe("vc2", "flac", "yuv422p", (128, 128), {"b": "20M"})),
        ("real.rm", Recipe("rv10", "ac3", options={**lossy, "g": "4"})),
        ("windows.asf", Recipe("wmv2", "pcm_u8", options=lossy)),
        ("messenger.avi", Recipe("msmpeg4", "mp2", options=lossy)),
        ("raw.mjpeg", Recipe("mjpeg", None, "yuvj420p", options=lossy)),
        ("web.ivf", Recipe("libvpx-vp9", None, options={"deadline": "realtime", "cpu-used": "8"})),
        ("stacked.y4m", Recipe("wrapped_avframe", None, "yuv444p10le", muxer={"strict": "-1"})),
        ("pixel.mkv", Recipe("ffv1", None, "yuv444p", (1, 1))),
        ("two-pixels.mp4", Recipe(size=(2, 2))),
        ("odd.mp4", Recipe(pix_fmt="yuv444p", size=(33, 31))),
        ("odd.webm", Recipe("libvpx-vp9", "libopus", "yuv420p", (33, 31), {"deadline": "realtime"})),
        ("tall.mkv", Recipe("ffv1", None, size=(8, 2000))),
        ("fast.mp4", replace(SILENT, rate=Fraction(1000))),
        ("film.mkv", replace(PLAIN, rate=Fraction(24000, 1001))),
        ("sound-first.mp4", Recipe(options=B_FRAMES, sound_first=True)),
        ("sound-first.mkv", Recipe(options=B_FRAMES, sound_first=True)),
        ("sound-first.ts", Recipe(options=B_FRAMES, sound_first=True)),
        ("wavpack.mkv", replace(PLAIN, sound="wavpack")),
        ("alaw.mov", replace(PLAIN, sound="pcm_alaw", sound_rate=8000)),
        ("adpcm.mov", replace(PLAIN, sound="adpcm_ima_qt")),
        ("s24.mkv", replace(PLAIN, sound="pcm_s24le", layout="7.1")),
    ]  # fmt: skip
    # These codecs delay the sound, and no file says by how much: FFmpeg plays them so.
    late_s = {"camera.3gp": 0.00575, "real.rm": 256 / SAMPLE_RATE, "messenger.avi": 481 / SAMPLE_RATE}
    return [
        _simple(name, recipe, click_s=CLICK_S + late_s.get(name, 0) if recipe.sound else None) for name, recipe in table
    ]


KINDS = (*_by_codec(), *_by_sound(), *_by_clock(), *_by_device())
