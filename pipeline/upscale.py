"""Footage enlarged, in one process: the road of `pipeline/film.py` for films that are there already.

    footage -> cuts -> plan -> for every segment: read, upscale, encode, keep -> write

Nothing depends on who makes a segment, or when: the plan is a pure function of the footage and the wish, a segment is
one of its frames alone, and the journal beside the output holds what is finished. Whoever upscales the same footage
into the same place again goes on where it ended, bit for bit.

Shapes: f frames, h w pixels of the footage, H W pixels of the output.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from time import perf_counter
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from pipeline.errors import JournalError
from pipeline.journal.keys import Parts
from pipeline.journal.segments import SegmentJournal, SegmentKey, hash_of
from pipeline.journal.store import Store
from pipeline.journal.writer import sole_writer
from pipeline.media.footage import Footage, read_pictures
from pipeline.media.footage_write import FootageEncoding, FootageSegment, SegmentEncoder
from pipeline.media.scene_cuts import RULE, Grey, find_cuts, small_pictures
from pipeline.models.upscaler import Upscaler, UpscalerState
from pipeline.observe import SILENT, Observer
from pipeline.upscale_output import SCRATCH, Film, Output, Written
from pipeline.upscale_plan import ChunkGrid, SegmentSpan, UpscalePlan, UpscaleWish, WarmUp, frames_wished, plan_upscale

PLAN_NAME = "journal/upscale.json"
CUTS_NAME = "journal/cuts.json"


def upscale(
    footage: Footage, wish: UpscaleWish, model: Upscaler, output: Output, observer: Observer = SILENT
) -> "Upscaled":
    """Upscale footage, or go on where an earlier call ended.

    Args:
        observer: hears of cuts found, of every segment, and of the end.

    Raises:
        JournalError: somebody else is writing to the same place.
        SpecError: the wish does not go with the footage, or the output is not ours.
        MediaError: the footage cannot be decoded, or the output cannot be written.
    """
    with sole_writer(output.journal):
        cuts = cuts_of(footage, wish, output.journal, observer)
        work = open_upscaling(footage, cuts, wish, output.journal, numerics(model), grid_of(model))
        written, error = begin(work, output, observer), None
        if written is None:
            make = SegmentMaker(work, model)
            for span in work.missing():
                observer.event("upscale.segment", **make(span).fields())
            error = boundary_error(work, model) if work.approximates else None
            written = finish(work, output, observer)
    return Upscaled(written, error)


@dataclass(frozen=True)
class BoundaryError:
    """How far a short warm-up is from an exact one behind the first border that it crosses, in levels of 8 bits.

    Args:
        frames: those that were compared.
        most: the largest difference of a sample.
        mean: over all samples.
    """

    frames: range
    most: float
    mean: float


@dataclass(frozen=True)
class Upscaled:
    """What came of it; `error` tells what a warm-up shorter than the model's history costs."""

    written: Written
    error: BoundaryError | None = None


# ------------------------------------------------------------------ what everybody who takes part must know


@dataclass(frozen=True)
class Upscaling:
    """One film being made of footage, with what decides its bits; the same for whoever takes part."""

    footage: Footage
    plan: UpscalePlan
    store: Store
    numerics: Parts

    @cached_property
    def journal(self) -> SegmentJournal:
        """What is finished."""
        return SegmentJournal(self.store)

    @cached_property
    def keys(self) -> tuple[SegmentKey, ...]:
        """What every segment is kept under."""
        wish = self.plan.wish
        parts = {
            **self.numerics,
            "footage": self.footage.fingerprint,
            "scale": wish.scale,
            "codec": wish.codec,
            "quality": self.encoding.quantiser,
            "continuity": str(wish.continuity),
            "chunk_frames": self.plan.grid.chunk_frames,
        }
        return tuple(SegmentKey.of(span.frames.start, {**parts, **span.card()}) for span in self.plan.segments)

    @cached_property
    def key(self) -> str:
        """A hash of all that decides the output."""
        return hash_of({"segments": [key.key for key in self.keys]})

    @property
    def encoding(self) -> FootageEncoding:
        """How segments are encoded."""
        wish = self.plan.wish
        return FootageEncoding(wish.codec, wish.quality, threads=self.numerics["threads"])

    @property
    def approximates(self) -> bool:
        """Whether segments are warmed up over less than the model's history."""
        continuity, grid = self.plan.wish.continuity, self.plan.grid
        return isinstance(continuity, WarmUp) and continuity.warm_up(grid) < grid.up(grid.history_frames)

    def missing(self) -> Iterator[SegmentSpan]:
        """Segments that are to be made, in order; those that are kept are read and checked on the way."""
        for span, key in zip(self.plan.segments, self.keys, strict=True):
            if self.journal.segment(key) is None:
                yield span

    def summary(self) -> dict[str, float]:
        """The work in numbers."""
        plan = self.plan
        kept = self.journal.claimed(self.keys)
        frames = {span.frames.start: len(span.frames) for span in plan.segments}
        return {
            "frames": len(plan.frames),
            "passed_frames": plan.num_passed_frames,
            "scenes": len(plan.scenes),
            "segments": len(plan.segments),
            "kept_segments": len(kept),
            "kept_frames": sum(frames[key.start] for key in kept),
            "kept_bytes": sum(kept.values()),
        }

    def card(self) -> dict[str, Any]:
        """The plan as plain values, for the journal."""
        segments = [{**span.card(), "key": key.key} for span, key in zip(self.plan.segments, self.keys, strict=True)]
        return {
            "footage": {"url": self.footage.url, "fingerprint": self.footage.fingerprint},
            "wish": self.plan.wish.card(),
            "numerics": dict(self.numerics),
            "scenes": [[scene.start, scene.stop] for scene in self.plan.scenes],
            "segments": segments,
        }


def open_upscaling(
    footage: Footage, cuts: Sequence[int], wish: UpscaleWish, store: Store, numerics: Parts, grid: ChunkGrid
) -> Upscaling:
    """Plan the work, with a journal in which what was made alike counts. Nothing is written.

    Args:
        cuts: see `cuts_of`.
        numerics: see the function of that name.
        grid: the model's, see `grid_of`.
    """
    return Upscaling(footage, plan_upscale(frames_wished(footage, wish), cuts, wish, grid), store, numerics)


def grid_of(model: Upscaler) -> ChunkGrid:
    """How `model` goes through a scene."""
    return ChunkGrid(model.chunk_frames, model.history_frames)


def settle(threads: int, device: str) -> None:
    """Have this process compute with so many threads, and on a GPU the same way every time."""
    torch.set_num_threads(threads)
    if device != "cpu":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def numerics(model: Upscaler) -> Parts:
    """What decides the output's bits beside footage and wish, in this process as it is set up now."""
    weights = next(model.parameters())
    parts = {
        "weights": model.fingerprint(),
        "torch": torch.__version__,
        "av": av.__version__,
        "numpy": np.__version__,
        "dtype": str(weights.dtype),
        "device": weights.device.type,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return parts if weights.device.type == "cpu" else {**parts, "gpu": torch.cuda.get_device_name(weights.device)}


# ------------------------------------------------------------------ the acts


def cuts_of(
    footage: Footage, wish: UpscaleWish, store: Store, observer: Observer = SILENT, *, keep: bool = True
) -> tuple[int, ...]:
    """Frames that begin a new scene among those that are wished for: as the journal holds them, or found and kept.

    Args:
        keep: False writes nothing.
    """
    frames = frames_wished(footage, wish)
    if wish.scene_threshold == 0:
        return ()
    question = {
        "footage": footage.fingerprint,
        "frames": [frames.start, frames.stop],
        "threshold": wish.scene_threshold,
        "rule": RULE,
    }
    with suppress(FileNotFoundError, ValueError, KeyError):
        answer = json.loads(store.get(CUTS_NAME))
        if answer["of"] == question:
            return tuple(answer["cuts"])
    seen = _told(small_pictures(footage, frames), len(frames), observer)
    cuts = tuple(find_cuts(seen, wish.scene_threshold))
    if keep:
        store.put(CUTS_NAME, json.dumps({"of": question, "cuts": cuts}).encode())
    return cuts


def _told(pictures: Iterable[tuple[int, Grey]], total: int, observer: Observer) -> Iterator[tuple[int, Grey]]:
    for done, picture in enumerate(pictures, 1):
        yield picture
        if done % 100 == 0 or done == total:
            observer.event("cuts.frames", frames=done, total=total)


def forget(output: Output) -> None:
    """Let go of everything that was made for an output, so that all of it is made again; the output itself stays."""
    with sole_writer(output.journal):
        output.forget()
        SegmentJournal(output.journal).sweep(())
        for name in (PLAN_NAME, CUTS_NAME):
            output.journal.delete(name)


def begin(work: Upscaling, output: Output, observer: Observer) -> Written | None:
    """Write down the plan. The output, where an earlier call has finished it already.

    Raises:
        SpecError: something stands at the output's place that is not ours.
    """
    output.check_ours()
    for name in work.store.list(SCRATCH):
        work.store.delete(name)
    written = output.written(work.key)
    if written is None:
        card, changes = work.card(), changed(work)
        work.store.put(PLAN_NAME, json.dumps(card).encode())
        observer.event("film.start", url=work.store.url, **work.summary(), changes=changes)
    return written


def changed(work: Upscaling) -> list[str]:
    """What the plan in the journal was made with, and what is asked for now, where they differ; for people."""
    try:
        old = json.loads(work.store.get(PLAN_NAME))
        was = {**old["wish"], **old["numerics"], "footage": old["footage"]["fingerprint"][:12]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    now = {**work.plan.wish.card(), **work.numerics, "footage": work.footage.fingerprint[:12]}
    return [f"{name} was {was.get(name)}, is {part}" for name, part in now.items() if was.get(name) != part]


def finish(work: Upscaling, output: Output, observer: Observer) -> Written:
    """Write the output from its segments, and clear away what no segment of it needs.

    Raises:
        JournalError: a segment was damaged since it was made.
        MediaError: the container cannot hold them.
    """
    written = output.write(Film(work.footage, work.plan.frames, _segments(work), work.encoding), work.key)
    work.journal.sweep(work.keys)
    observer.event("film.done", url=written.url, frames=len(work.plan.frames), bytes=written.bytes)
    return written


def _segments(work: Upscaling) -> Iterator[FootageSegment]:
    for span, key in zip(work.plan.segments, work.keys, strict=True):
        data = work.journal.segment(key)
        if data is None:
            raise JournalError(
                f"segment {span.index} of {work.store.url}, frames {span.frames.start}..{span.frames.stop - 1}, was"
                " damaged while the output was written; the same command makes it anew"
            )
        yield FootageSegment.from_bytes(data)


@dataclass(frozen=True)
class Made:
    """What became of one segment: frames that it holds, frames that went through the model, its bytes, its time."""

    segment: int
    frames: int
    passed_frames: int
    bytes: int
    seconds: float

    def fields(self) -> dict[str, float]:
        """As fields of an event."""
        return dict(vars(self))


class SegmentMaker:
    """Makes one segment after another: reads its pictures, upscales and encodes them chunk by chunk, keeps it.

    It holds one chunk of pictures and the packets of one segment, however long the footage is.
    """

    def __init__(self, work: Upscaling, model: Upscaler) -> None:
        self._work, self._model = work, model
        self._behind: tuple[SegmentSpan, UpscalerState] | None = None

    def __call__(self, span: SegmentSpan) -> Made:
        """Make a segment. Raises `MediaError` if its pictures do not decode."""
        work, started = self._work, perf_counter()
        wish, key = work.plan.wish, work.keys[span.index]
        first, state = self._entered(span)
        encoder = SegmentEncoder(work.footage, wish.scale, work.encoding, span.frames)
        for frames, pictures in enlarged(work, self._model, range(first, span.frames.stop), state):
            if frames.start >= span.frames.start:
                encoder.add(pictures)
        data = encoder.finish().to_bytes()
        work.journal.keep_segment(key, data)
        if wish.is_sequential:
            before = work.plan.before(span)
            older = None if before is None else work.keys[before.index]
            work.journal.keep_state(key, state.snapshot(), older)
            self._behind = (span, state)
        passed = span.frames.stop - first
        return Made(span.index, len(span.frames), passed, len(data), perf_counter() - started)

    def _entered(self, span: SegmentSpan) -> tuple[int, UpscalerState]:
        """The frame to read from, and the model's state before it."""
        plan = self._work.plan
        if not plan.wish.is_sequential:
            return span.warm_up.start, start(self._work, self._model, span, span.warm_up.start)
        before, behind = plan.before(span), self._behind
        self._behind = None  # a state that goes on is no longer behind anything, should this segment fail
        if behind is not None and behind[0] == before:
            return span.frames.start, behind[1]
        while before is not None:
            saved = self._work.journal.state(self._work.keys[before.index])
            if saved is not None:
                state = start(self._work, self._model, span, before.frames.stop)
                state.restore(saved)
                return before.frames.stop, state
            before = plan.before(before)
        return span.scene_start, start(self._work, self._model, span, span.scene_start)


def start(work: Upscaling, model: Upscaler, span: SegmentSpan, first: int) -> UpscalerState:
    """The model's state before frame `first` of the scene of `span`, as if nothing had come before."""
    footage = work.footage
    chunk = (first - span.scene_start) // work.plan.grid.chunk_frames
    return model.start(work.plan.wish.scale, footage.height, footage.width, chunk)


def enlarged(work: Upscaling, model: Upscaler, frames: range, state: UpscalerState) -> Iterator[tuple[range, Tensor]]:
    """Chunk after chunk of `frames`, which begin on the grid: its frames, and float32 [f 3 H W] on the CPU."""
    device, size = next(model.parameters()).device, work.plan.grid.chunk_frames
    pictures = read_pictures(work.footage, frames)
    for first in frames[::size]:
        chunk = range(first, min(first + size, frames.stop))
        small = torch.stack(list(islice(pictures, len(chunk)))).to(device)
        yield chunk, model(small, state).cpu()


# ------------------------------------------------------------------ what a short warm-up costs


def boundary_error(work: Upscaling, model: Upscaler) -> BoundaryError | None:
    """Upscale what lies behind the first border between segments twice: warmed up as planned, and over the history.

    None where no segment is entered inside a scene.
    """
    plan = work.plan
    span = next((span for span in plan.segments if not span.opens_scene), None)
    if span is None:
        return None
    history = plan.grid.up(plan.grid.history_frames)
    entered = max(span.scene_start, span.frames.start - history)
    frames = span.frames[: history + plan.grid.chunk_frames]
    both = [_behind(work, model, span, range(first, frames.stop)) for first in (span.warm_up.start, entered)]
    most, total, samples = 0.0, 0.0, 0
    for one, other in zip(*both, strict=True):
        difference = 255 * (one - other).abs()
        most = max(most, difference.max().item())
        total, samples = total + difference.sum(dtype=torch.float64).item(), samples + difference.numel()
    return BoundaryError(frames, most, total / samples)


def _behind(work: Upscaling, model: Upscaler, span: SegmentSpan, frames: range) -> Iterator[Tensor]:
    """Enlarged chunks of `span`, where the model begins with the first of `frames`."""
    state = start(work, model, span, frames.start)
    return (x for chunk, x in enlarged(work, model, frames, state) if chunk.start >= span.frames.start)
