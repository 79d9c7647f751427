"""FFmpeg's errors as `MediaError`, the colour constants that all media modules share, and a guard around encoders."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from longtake.pipeline.errors import MediaError

# BT.709, limited range: what players assume for H.264 when they ignore the tags.
MATRIX = Colorspace.ITU709
PRIMARIES = ColorPrimaries.BT709
TRANSFER = ColorTrc.BT709
LIMITED = ColorRange.MPEG
FULL = ColorRange.JPEG

# Without these swscale rounds carelessly and drops chroma columns: pure colours come back 2 or 3 units off, not 1.
EXACT_SCALER = int(
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


def _unnamed(kind: type[SideDataType], value: object) -> SideDataType:
    member = object.__new__(kind)
    member._name_ = f"UNNAMED_{value}"
    member.__dict__["_value_"] = value
    return member


# PyAV 18 knows fewer kinds of side data than its FFmpeg, and fails on the others: EXIF, LCEVC, MV-HEVC.
setattr(SideDataType, "_missing_", classmethod(_unnamed))  # noqa: B010 (mypy takes no assignment to a method)


# What FFmpeg's PNG decoder gives. Its ICC profiles have a name, which PyAV 18 frees a second time.
_FORMATS_OF_PNG = {
    *("monob", "pal8", "gray", "ya8", "rgb24", "rgba"),
    *("gray16be", "ya16be", "rgb48be", "rgba64be"),
}
_PROFILE = SideDataType.ICC_PROFILE


def side_data(picture: VideoFrame, kind: SideDataType) -> bytes | None:
    """The bytes of one kind of a picture's side data; None if it has none. Those of an ICC profile are left out."""
    may_have_name = picture.format.name in _FORMATS_OF_PNG
    if kind == _PROFILE and may_have_name:
        return None if _by_profile(picture, "select") is None else b""
    cleaned = _by_profile(picture, "delete") if may_have_name else picture
    held: Any = {} if cleaned is None else cleaned.side_data
    return bytes(held[kind]) if kind in held else None


def _by_profile(picture: VideoFrame, mode: str) -> VideoFrame | None:
    """The picture without its ICC profile ("delete"), or only if it has one ("select")."""
    graph = Graph()
    tick_s = picture.time_base or Fraction(1)
    source = graph.add_buffer(width=picture.width, height=picture.height, format=picture.format, time_base=tick_s)
    graph.link_nodes(source, graph.add("sidedata", mode=mode, type=_PROFILE.name), graph.add("buffersink")).configure()
    graph.vpush(picture)
    try:
        return graph.vpull()
    except av.BlockingIOError:
        return None


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors into a MediaError that begins with `what` was being done."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(f"{what}: {error}") from error


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Keep the scheduling policy of this process's threads.

    SVT-AV1, opened by root, gives the calling thread and its own ones the highest real-time priority, which they would
    keep and their child processes inherit: such a process starves all others on the machine, Ray's daemons too.
    """
    before = _policies()
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread, now in _policies().items():
            if now != before.get(thread, policy):
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(thread, policy, parameters)


def _policies() -> dict[int, int]:
    """Each thread of this process, with its scheduling policy."""
    policies = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            policies[int(thread.name)] = os.sched_getscheduler(int(thread.name))
    return policies
