"""Frames and sound of a film as numpy arrays, while it is rendered.

Shapes: n frames, h height, w width.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from longtake.actors.rendering import render as render_take
from longtake.pipeline.errors import Cancelled
from longtake.pipeline.media.segment_frames import segment_frames
from longtake.pipeline.observe import SILENT, Observer, Observers
from longtake.pipeline.segment_feed import SegmentFeed
from longtake.pipeline.values import Segment
from longtake.rendering import RenderOptions, Source, prepare

_WAITING = 4
"""Finished chunks that may wait for the consumer. They are encoded; only the chunk at hand is decoded."""


@dataclass(frozen=True)
class Chunk:
    """One finished chunk of a film.

    Args:
        index: from 0.
        scene: the index of its scene.
        start_s: when its first frame is shown, in seconds.
        frames: uint8 [n h w 3], RGB: the values that a player reads from the film.
        sound: float32 [samples channels] in -1..1, before AAC. A model whose sound decoder looks ahead returns sound
            later than frames; the chunks together hold the whole film's sound.
        start_sample: the sample of the film with which `sound` begins.
        sample_rate: samples per second.
    """

    index: int
    scene: int
    start_s: float
    frames: NDArray[np.uint8]
    sound: NDArray[np.float32]
    start_sample: int
    sample_rate: int


def stream(
    storyboard: Source,
    output: str | os.PathLike[str],
    *,
    observer: Observer = SILENT,
    **options: Unpack[RenderOptions],
) -> Iterator[Chunk]:
    """Render a film, or resume it, and yield every chunk in order as soon as it is published.

    Chunks that an earlier render finished come first, so a stream always holds the whole film. Rendering continues in
    the background while a chunk is processed, a few chunks ahead at most. Closing the iterator ends the render;
    finished chunks are kept, and the next call resumes.

    Args:
        storyboard, output, observer, options: see `render`. The observer is called in another thread.

    Raises:
        LongtakeError: as `render` does, once the chunks that were finished before have been yielded.
    """
    ready: Queue[Segment | BaseException | None] = Queue(maxsize=_WAITING)
    closed = Event()
    worker = Thread(
        target=_render, args=(storyboard, output, observer, options, ready, closed), name="longtake-stream", daemon=True
    )
    worker.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield _chunk(item)
    finally:
        closed.set()
        while worker.is_alive():
            _drain(ready)
            worker.join(0.05)


def _render(
    storyboard: Source,
    output: str | os.PathLike[str],
    observer: Observer,
    options: RenderOptions,
    ready: "Queue[Segment | BaseException | None]",
    closed: Event,
) -> None:
    """Open and render in one thread, since the number of compute threads is a setting of a thread."""

    def tick() -> None:
        if closed.is_set():
            raise Cancelled("the stream was closed; finished chunks are kept, the next call resumes")

    def receive(segment: Segment) -> None:
        tick()
        ready.put(segment)

    end: BaseException | None = None
    try:
        take, resolved = prepare(storyboard, output, options)
        render_take(take, resolved, Observers(observer, SegmentFeed(take, receive)), tick)
    except BaseException as error:  # noqa: BLE001  raised again by the consumer
        end = error
    ready.put(end)


def _drain(ready: "Queue[Any]") -> None:
    while not ready.empty():
        ready.get_nowait()


def _chunk(segment: Segment) -> Chunk:
    span, sound = segment.span, segment.sound
    return Chunk(
        index=span.index,
        scene=span.scene,
        start_s=float(span.start_s),
        frames=segment_frames(segment),
        sound=np.ascontiguousarray(sound.pcm.numpy().T),
        start_sample=sound.start_sample,
        sample_rate=sound.sample_rate,
    )
