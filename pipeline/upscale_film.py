"""Upscaling footage in one process: the counterpart of `pipeline/film.py` for existing films.

    footage -> cuts -> plan -> for every segment: read, upscale, encode, keep -> write

The plan is a pure function of footage and spec, and a segment one of its frames, so it does not matter which worker
makes a segment, or when. The journal next to the output holds the finished segments. Run the same command again: it
resumes and produces the same bits.

Shapes: f frames, h w pixels of the footage, H W pixels of the output.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from longtake.pipeline.errors import JournalError, MediaError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.cuts import RULE, Grey, find_cuts, small_pictures
from longtake.pipeline.footage.encode import FootageSegment
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.footage_segments import FootageSegmentJournal
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler, grid_of
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.upscaling.boundary import BoundaryError, boundary_error
from longtake.pipeline.upscaling.footage_segment import FootageSegmentMaker
from longtake.pipeline.upscaling.output import SCRATCH, Output, OutputContent, Written
from longtake.pipeline.upscaling.plan import UpscaleSpec, frames_to_upscale
from longtake.pipeline.upscaling.preflight import check_model
from longtake.pipeline.upscaling.work import PLAN_NAME, Upscaling, numerics, open_upscaling
from longtake.pipeline.weights.options import Numerics

CUTS_NAME = "journal/cuts.json"


def upscale(
    footage: Footage,
    spec: UpscaleSpec,
    model: StreamingUpscaler,
    output: Output,
    observer: Observer = SILENT,
    policy: Numerics = "exact",
) -> "Upscaled":
    """Upscale footage, or resume an earlier call.

    Args:
        observer: notified of the search for cuts, of every segment, and of the end.
        policy: which processors may resume it.

    Raises:
        JournalError: another process writes to the same output.
        SpecError: the spec does not fit the footage or the model, or the output exists and is not ours.
        MediaError: the footage cannot be decoded, or the output cannot be written.
    """
    check_model(model, spec)
    with sole_writer(output.journal):
        cuts = cuts_of(footage, spec, output.journal, observer)
        work = open_upscaling(footage, cuts, spec, output.journal, numerics(model, policy), grid_of(model))
        written, error = begin(work, output, observer), None
        if written is None:
            make = FootageSegmentMaker(work, model)
            for span in work.missing():
                observer.event("upscale.segment", **make(span).fields())
            error = boundary_error(work, model) if work.approximates else None
            written = finish(work, output, observer)
    return Upscaled(written, error)


@dataclass(frozen=True)
class Upscaled:
    """The output; `error` is that of a warm-up shorter than the model's history."""

    written: Written
    error: BoundaryError | None = None


def cuts_of(
    footage: Footage, spec: UpscaleSpec, store: Store, observer: Observer = SILENT, *, keep: bool = True
) -> tuple[int, ...]:
    """The frames to upscale that begin a new scene: read from the journal, or found and kept there.

    Args:
        keep: False: nothing is written.
    """
    frames = frames_to_upscale(footage, spec)
    if spec.scene_threshold == 0:
        return ()
    question = {
        "footage": footage.fingerprint,
        "frames": [frames.start, frames.stop],
        "threshold": spec.scene_threshold,
        "rule": RULE,
    }
    with suppress(FileNotFoundError, ValueError, KeyError):
        answer = json.loads(store.get(CUTS_NAME))
        if answer["of"] == question:
            return tuple(answer["cuts"])
    seen = _with_progress(small_pictures(footage, frames), len(frames), observer)
    cuts = tuple(find_cuts(seen, spec.scene_threshold))
    if keep:
        store.put(CUTS_NAME, json.dumps({"of": question, "cuts": cuts}).encode())
    return cuts


def _with_progress(pictures: Iterable[tuple[int, Grey]], total: int, observer: Observer) -> Iterator[tuple[int, Grey]]:
    for done, picture in enumerate(pictures, 1):
        yield picture
        if done % 100 == 0 or done == total:
            observer.event("cuts.frames", frames=done, total=total)


def forget(output: Output) -> None:
    """Delete the journal of an output, so that all of it is made again. The output itself stays."""
    with sole_writer(output.journal):
        output.forget()
        FootageSegmentJournal(output.journal).sweep(())
        for name in (PLAN_NAME, CUTS_NAME):
            output.journal.delete(name)


def begin(work: Upscaling, output: Output, observer: Observer) -> Written | None:
    """Write the plan, and return the output if an earlier call has finished it.

    Raises:
        SpecError: the output exists and is not ours.
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
    """The settings that differ between the plan in the journal and this one, in words."""
    try:
        old = json.loads(work.store.get(PLAN_NAME))
        was = {**old["wish"], **old["numerics"], "footage": old["footage"]["fingerprint"][:12]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    now = {**work.plan.spec.card(), **work.numerics, "footage": work.footage.fingerprint[:12]}
    return [f"{name} was {was.get(name)}, is {part}" for name, part in now.items() if was.get(name) != part]


def lost(footage: Footage, spec: UpscaleSpec, output: Output) -> list[str]:
    """The settings, in words, by which all segments of a finished output would be made again; empty if none would."""
    if not output.is_finished():
        return []
    try:
        old = json.loads(output.journal.get(PLAN_NAME))
        was = _decisive(old["footage"]["fingerprint"], old["wish"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, MediaError):
        return []
    now = _decisive(footage.fingerprint, spec.card())
    return [f"{name} was {was[name]}, is {now[name]}" for name in now if was[name] != now[name]]


def _decisive(fingerprint: str, wish: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the bits of every segment, apart from the model."""
    quality = FootageEncoding(wish["codec"], wish["quality"]).quantiser
    chosen = {name: wish[name] for name in ("scale", "codec", "continuity")}
    return {"footage": fingerprint[:12], **chosen, "quality": quality}


def finish(work: Upscaling, output: Output, observer: Observer) -> Written:
    """Write the output from its segments, and delete data that none of them needs.

    Raises:
        JournalError: a segment is damaged.
        MediaError: the container cannot hold them.
    """
    written = output.write(OutputContent(work.footage, work.plan.frames, _segments(work), work.encoding), work.key)
    work.journal.sweep(work.keys)
    observer.event("film.done", url=written.url, frames=len(work.plan.frames), bytes=written.bytes)
    return written


def _segments(work: Upscaling) -> Iterator[FootageSegment]:
    for span, key in zip(work.plan.segments, work.keys, strict=True):
        data = work.journal.segment(key)
        if data is None:
            raise JournalError(
                f"segment {span.index} of {work.store.url}, frames {span.frames.start}..{span.frames.stop - 1}, was"
                " damaged while the output was written; run the same command to make it again"
            )
        yield FootageSegment.from_bytes(data)
