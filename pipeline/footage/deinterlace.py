"""Interlaced pictures made whole, by FFmpeg's `bwdif`: one for every pair of fields, at its own time.

The filters look at the pictures before and after each, so any range is the same bits with a few more at either end.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import groupby

import av
from av.filter import Graph
from av.video.frame import VideoFrame

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.media.ffmpeg import reported

AUTO, OFF = "auto", "off"
MODES = (AUTO, OFF)
"""Whether interlaced footage is deinterlaced."""

LEAST_SIDE = 8
"""Of pictures that the filters take: their colours may have half the size."""

REACH = 1
"""Pictures before and after each that `bwdif` looks at."""

MATCHING_REACH = 2
"""The same for `fieldmatch` and `bwdif`."""


def deinterlacing(footage: Footage, mode: str) -> Footage:
    """The footage as it is read with a mode: footage whose pictures are whole stays as it is."""
    is_small = min(footage.width, footage.height) < LEAST_SIDE
    if mode == OFF or not footage.interlaced or footage.deinterlaced or is_small:
        return footage
    fingerprint = sha256(f"{footage.fingerprint} bwdif".encode()).hexdigest()
    note = "interlaced: shown deinterlaced, one picture for two fields; --deinterlace off keeps them woven"
    return replace(footage, deinterlaced=True, fingerprint=fingerprint, notes=(*footage.notes, note))


def deinterlaced(
    pictures: Iterable[tuple[int, VideoFrame]], order: str | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """Pictures in order, each with its number, without combs; those that are not woven of fields stay as they are.

    Args:
        order: which field comes first, "tff" or "bff", of pictures that are put together from the fields of their
            neighbours first, by `fieldmatch`.
    """
    for _, alike in groupby(pictures, lambda numbered: _form(numbered[1])):
        yield from _filtered(alike, order)


def _form(frame: VideoFrame) -> tuple[int, int, str]:
    """What must not change in a graph: FFmpeg ends the process then."""
    return frame.width, frame.height, frame.format.name


def _filtered(pictures: Iterable[tuple[int, VideoFrame]], order: str | None) -> Iterator[tuple[int, VideoFrame]]:
    numbers: list[int] = []
    graph: Graph | None = None
    for number, frame in pictures:
        graph = graph or _graph(frame, order)
        numbers.append(number)
        graph.vpush(frame)
        yield from _pulled(graph, numbers)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph, numbers)


def _graph(frame: VideoFrame, order: str | None) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    bwdif = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    shape = graph.add("format", pix_fmts=frame.format.name)
    matching = [graph.add("fieldmatch", order=order, combmatch="full")] if order else []
    with reported("deinterlacing; use --deinterlace off"):
        graph.link_nodes(source, *matching, bwdif, shape, graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph, numbers: list[int]) -> Iterator[tuple[int, VideoFrame]]:
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        except av.FFmpegError as error:
            raise MediaError(f"deinterlacing: {error}; use --deinterlace off") from error
        yield numbers.pop(0), frame
