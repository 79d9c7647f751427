"""Footage with another sound: the packets of its picture, and of all streams that are not sound, stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from heapq import merge
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.copy import Copier, Excerpt, lost_streams
from longtake.pipeline.footage.mux import FORMATS, SAME_EACH_TIME, mp4_options
from longtake.pipeline.footage.values import Footage, kept_tags
from longtake.pipeline.media.ffmpeg import reported
from longtake.pipeline.media.source import opened
from longtake.pipeline.media.timeline import Timeline

_TRIED_PACKETS = 3
_MOST_OPEN = 32


def check_rescored(footage: Footage, path: Path) -> tuple[str, ...]:
    """What `path` will not hold of `footage`, in words.

    Raises:
        MediaError: the container is unknown, or cannot hold the picture as it is.
    """
    if path.suffix.lower() not in FORMATS:
        raise MediaError(f"{path.name}: footage with another sound is written to {', '.join(FORMATS)}; end it so")
    if path.exists() and Path(footage.url).exists() and path.samefile(footage.url):
        raise MediaError(f"{path} is the footage itself; write to another file")
    container, silent = FORMATS[path.suffix.lower()], _without_sound(footage)
    try:
        with TemporaryDirectory(prefix="longtake-") as folder, opened(footage.url, footage.size) as source:
            stream = source.streams[footage.stream_index]
            with (
                reported("a trial with its first pictures"),
                av.open(f"{folder}/trial", "w", format=container) as out,
            ):
                copy = out.add_stream_from_template(stream, opaque=True)
                for packet in islice(_moved(source, stream, copy, footage.pts[0]), _TRIED_PACKETS):
                    out.mux_one(packet)
    except (MediaError, ValueError) as error:
        raise MediaError(
            f"{path} cannot hold the picture of {footage.url} ({footage.codec}) as it is; use another container, such"
            " as .mkv"
        ) from error
    losses = [f"{other} is left out: {path.suffix} cannot hold it" for other in lost_streams(silent, container)]
    if container == "matroska":
        losses.append(f"all times are a packet of sound later in {path.suffix}, which begins at 0; .mp4 keeps them")
    return tuple(losses)


def write_rescored(footage: Footage, sound_url: str, path: Path) -> tuple[str, ...]:
    """Write the footage with the sound of the film at `sound_url`, which begins with its picture.

    Args:
        path: a local .mp4, .mov or .mkv file; deleted on failure.

    Returns:
        What the file does not hold, in words.

    Raises:
        MediaError: the file cannot be written.
    """
    losses = check_rescored(footage, path)
    try:
        with ExitStack() as stack, reported(f"writing {path}"):
            _write(footage, sound_url, path, stack)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return losses


def _write(footage: Footage, sound_url: str, path: Path, stack: ExitStack) -> None:
    container, silent = FORMATS[path.suffix.lower()], _without_sound(footage)
    # The new sound begins with the picture, so that is shown at 0.
    excerpt = Excerpt(range(silent.num_frames), None, None, silent.pts[0], silent.time_base)
    pictures, others = (stack.enter_context(opened(footage.url, footage.size)) for _ in range(2))
    heard = stack.enter_context(opened(sound_url))
    options = SAME_EACH_TIME if container == "matroska" else mp4_options(silent)
    out = stack.enter_context(
        av.open(str(path), "w", format=container, options=options, metadata_errors="surrogateescape")
    )
    source = pictures.streams[footage.stream_index]
    picture = out.add_stream_from_template(source, opaque=True)
    picture.metadata.update(kept_tags(source.metadata))
    sound = out.add_stream_from_template(heard.streams.audio[0], opaque=True)
    copier = Copier(others, out, silent, container, excerpt)
    out.metadata.update(kept_tags(footage.metadata))
    out.set_chapters(excerpt.chapters(footage.chapters))
    shown = _moved(pictures, source, picture, excerpt.ticks(source.time_base or Fraction(1)))
    for packet in merge(shown, _moved(heard, heard.streams.audio[0], sound, 0), key=_decoded_s):
        copier.copy_until(_decoded_s(packet))
        out.mux_one(packet)
    copier.copy_until(None)


def _without_sound(footage: Footage) -> Footage:
    return replace(footage, others=tuple(other for other in footage.others if other.kind != "audio"))


def _moved(container: InputContainer, stream: Stream, copy: Stream, shift: int) -> Iterator[Packet[Any]]:
    """The packets of a stream for `copy`, `shift` ticks earlier."""
    for packet in _ordered(container, stream):
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = copy
        yield packet


def _ordered(container: InputContainer, stream: Stream) -> Iterator[Packet[Any]]:
    """The packets of a stream. Containers that store only one of the two times, when a packet is decoded and when it is
    shown, leave the other one open for some packets; here it is known where it can be."""
    reorders = bool(getattr(stream.codec_context, "has_b_frames", False))
    open_ones: list[Packet[Any]] = []
    for packet in Timeline(container).packets([stream]):
        if not packet.size or (packet.dts is None and packet.pts is None):
            continue
        if packet.pts is None and not reorders:
            packet.pts = packet.dts
        elif packet.dts is None and not reorders:
            packet.dts = packet.pts
        elif packet.dts is None and len(open_ones) < _MOST_OPEN:
            open_ones.append(packet)
            continue
        known = packet.pts if packet.dts is None else packet.dts
        for number, one in enumerate(open_ones):
            one.dts = (known or 0) - (len(open_ones) - number) * (packet.duration or 1)
        yield from open_ones
        open_ones = []
        yield packet
    yield from open_ones


def _decoded_s(packet: Packet[Any]) -> Fraction:
    time_s: Fraction = (packet.dts or 0) * packet.time_base
    return time_s
