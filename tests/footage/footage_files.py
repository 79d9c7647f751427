"""Films of every odd kind, made with PyAV, small and in a moment."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

CLOSED = {"bf": "2", "g": "8", "x264-params": "scenecut=0:b-adapt=0:open-gop=0"}
OPEN = {"bf": "3", "g": "8", "x264-params": "scenecut=0:b-adapt=0:open-gop=1"}
GRADUAL = {"bf": "0", "g": "8", "x264-params": "scenecut=0:intra-refresh=1"}
PQ = (9, 16, 9, 1)
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
HDR = {"x265-params": f"log-level=none:pools=none:frame-threads=1:master-display={MASTERING}:max-cll=1000,400"}


@dataclass
class Film:
    """What to make; the defaults are two thirds of a second of plain film with sound."""

    frames: int = 20
    width: int = 96
    height: int = 64
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: dict(CLOSED))
    pix_fmt: str = "yuv420p"
    time_base: Fraction = Fraction(1, 30000)
    pts: list[int] | None = None
    sounds: tuple[str, ...] = ("eng",)
    subtitles: str | None = None
    chapters: bool = False
    attachment: bool = False
    colour: tuple[int, int, int, int] | None = None
    matrix: tuple[int, ...] | None = None
    shape: Fraction | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    resize_at: int | None = None


def picture(number: int, width: int, height: int) -> np.ndarray[Any, Any]:
    """uint8 [h w 3]: slopes, and a bar that says which picture it is."""
    rgb = np.zeros((height, width, 3), dtype=np.uint8)
    rgb[..., 0] = np.linspace(10, 245, width)
    rgb[..., 1] = np.linspace(245, 10, height)[:, None]
    rgb[..., 2] = 40 + 8 * (number % 20)
    at = (number * 5) % (width - 8)
    rgb[:, at : at + 8] = 235
    return rgb


def make(path: Path, film: Film) -> str:
    """Write the film; its path."""
    with av.open(str(path), "w") as out:
        video = _video(out, film)
        sounds = [_sound(out, language) for language in film.sounds]
        words = out.add_mux_stream(film.subtitles) if film.subtitles else None
        if words is not None:
            words.metadata["language"] = "deu"
            words.time_base = Fraction(1, 1000)
        if film.attachment:
            out.add_attachment("letters.ttf", "font/ttf", bytes(range(200)))
        if film.chapters:
            out.set_chapters([_chapter(1, 0, 300, "One"), _chapter(2, 300, 667, "Two")])
        out.metadata.update(film.metadata)
        for number in range(film.frames):
            out.mux(video.encode(_frame(film, number)))
            for stream in sounds:
                _sing(out, stream, number)
        out.mux(video.encode(None))
        for stream in sounds:
            out.mux(stream.encode(None))
        if words is not None:
            _speak(out, words, film.subtitles or "")
    return str(path)


def _video(out: Any, film: Film) -> Any:
    video = out.add_stream(film.codec, rate=30, options=film.options)
    video.width, video.height, video.pix_fmt = film.width, film.height, film.pix_fmt
    video.codec_context.time_base = video.time_base = film.time_base
    video.codec_context.thread_count = 1
    video.metadata["title"] = "the picture"
    if film.colour is not None:
        context = video.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = film.colour
    if film.shape is not None:
        video.codec_context.sample_aspect_ratio = film.shape
    if film.matrix is not None:
        video.set_display_matrix(film.matrix)
    return video


def _frame(film: Film, number: int) -> VideoFrame:
    frame = VideoFrame.from_ndarray(picture(number, film.width, film.height))
    frame = frame.reformat(format=film.pix_fmt, dst_colorspace=5, threads=1)
    if film.colour is not None:
        frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = film.colour
    step = round(Fraction(1, 30) / film.time_base)
    frame.pts, frame.time_base = film.pts[number] if film.pts else number * step, film.time_base
    return frame


def _sound(out: Any, language: str) -> Any:
    sound = out.add_stream("aac", rate=48000, layout="mono")
    sound.metadata["language"] = language
    return sound


def _sing(out: Any, stream: Any, number: int) -> None:
    pcm = (8000 * np.sin(np.arange(1600) * (0.02 + 0.001 * number))).astype(np.int16)[None]
    frame = AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, number * 1600, Fraction(1, 48000)
    out.mux(stream.encode(frame))


def _speak(out: Any, words: Any, codec: str) -> None:
    for number, text in enumerate((b"Hello", b"World")):
        data = len(text).to_bytes(2, "big") + text if codec == "mov_text" else text
        packet: Any = av.Packet(data)
        packet.stream, packet.time_base = words, Fraction(1, 1000)
        packet.pts = packet.dts = 100 + 300 * number
        packet.duration = 200
        out.mux_one(packet)


def _chapter(number: int, start: int, stop: int, title: str) -> dict[str, Any]:
    return {"id": number, "start": start, "end": stop, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
