"""The acts of the road, ready to run: each a stage that is timed, told to an observer, and kept in the journal.

A take is everything they share. The same builders serve one process (`pipeline/film.py`) and Ray actors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

from longtake.pipeline.attention.exchange import ONE_RANK, Parallel
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.encoder import ConditioningEncoder, digests
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.journal import Journal
from longtake.pipeline.journal.keys import Parts, film_keys
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.models.upscaler import Upscaler
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.stages.decode import DecodeStage, decode_ahead, decode_history
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.stages.publish import PublishOptions, PublishStage
from longtake.pipeline.stages.upscale import UpscaleStage, check_chunks, upscale_history
from longtake.pipeline.values import FrameChunk, LatentChunk
from longtake.pipeline.weights.load import load_upscaler


@dataclass(frozen=True)
class Take:
    """One film being rendered into one place, with what decides its bits beside the storyboard.

    Args:
        given: what the user gives beside prompts, encoded.
        upscaler: None where the film is shown as large as it is rendered.
        notes: what the user should know of what was given.
    """

    model: FilmModel
    plan: FilmPlan
    store: Store
    journal: Journal
    numerics: Parts
    given: ConditioningEncoder
    upscaler: Upscaler | None = None
    notes: tuple[str, ...] = ()

    def finished(self, chunk: ChunkSpan) -> LatentChunk | None:
        """A chunk's finished latents, of the film or of what it goes on from; None where they are to be rendered."""
        return self.given.before(chunk) if chunk.index < 0 else self.journal.latents(chunk)

    def decoded_with(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunk, and those after it that its picture looks ahead to."""
        return [chunk, *decode_ahead(self.model, self.plan, chunk)]

    def summary(self) -> dict[str, float]:
        """The film in numbers, and how much of it is finished already, counted from its start."""
        plan, journal = self.plan, self.journal
        return {
            "chunks": len(plan.chunks),
            "film_s": float(plan.clock.seconds(plan.num_frames)),
            "frames": plan.num_frames,
            "samples": plan.num_samples,
            "kept_latents": journal.num_kept("latents"),
            "kept_segments": journal.num_kept("segments"),
        }


def open_take(storyboard: Storyboard, model: FilmModel, store: Store, numerics: Parts) -> Take:
    """Plan `storyboard` for `model`, with a journal in which what was rendered alike counts. Nothing is written.

    Args:
        numerics: see `pipeline/provenance.py`; or those of a take that was opened, whose files are not looked at again.

    Raises:
        SpecError: the model cannot render the wish, the upscaler cannot enlarge it, or a file that is given is no use.
        JournalError: a file is not what it was where the take was first opened.
        WeightsError: there is no such upscaler.
    """
    plan = plan_film(storyboard, model)
    given, notes, numerics = _given(model, plan, numerics)
    upscaler, parts = None, numerics
    if storyboard.output.upscale:
        upscaler = load_upscaler(storyboard.output.upscaler).to(model.device)
        check_chunks(upscaler, plan.chunks)
        parts = {**numerics, "upscaler": upscaler.fingerprint()}
    keys = film_keys(plan.storyboard, plan.chunks, parts, model.video_codec.lookahead)
    return Take(model, plan, store, Journal(store, keys), numerics, given, upscaler, notes)


def _given(model: FilmModel, plan: FilmPlan, numerics: Parts) -> tuple[ConditioningEncoder, tuple[str, ...], Parts]:
    """What a film is given, what is to be known of it, and numerics that tell its files from any others."""
    given, found = ConditioningEncoder(model, plan), digests(plan.storyboard)
    if not found:
        return given, (), numerics
    if "given" not in numerics:
        return given, tuple(given.check()), {**numerics, "given": found}
    for key, digest in found.items():
        if digest != numerics["given"].get(key):
            raise JournalError(
                f"{key} is another file here than where the render began; put it where all nodes see the same one"
            )
    return given, (), numerics


def mend(take: Take, observer: Observer) -> None:
    """Have damaged latents made anew, bit for bit, if chunks that are still to be rendered build on them.

    Latents are a pure function of what comes before, so a chunk whose latents are needed and lost is forgotten as a
    whole, and the road renders it in its turn; one whose latents nobody needs is left alone. From the last chunk to
    the first, since what a chunk needs lies before it. Reads every segment, and those latents that are needed.
    """
    model, plan, journal = take.model, take.plan, take.journal
    needed: set[int] = set()
    for chunk in reversed(plan.chunks[: journal.reach() + 1]):
        index, encoded = chunk.index, journal.holds("segments", chunk.index)
        if encoded and index not in needed:
            continue
        denoised = journal.holds("latents", index)
        if encoded and denoised:
            continue
        if encoded:
            journal.forget(index)
            observer.event("journal.mend", chunk=index)
        needed.update(span.index for span in decode_history(model, plan, chunk))
        if take.upscaler is not None:
            needed.update(span.index for span in upscale_history(model, take.upscaler, plan, chunk))
        lacking = [] if denoised else [chunk]
        lacking += [part for part in decode_ahead(model, plan, chunk) if not journal.holds("latents", part.index)]
        needed.update(span.index for part in lacking for span in plan.history(part))


StageT = TypeVar("StageT", bound=Callable[..., Any])


class Act(Generic[StageT]):
    """A stage at work: `name.chunk` is observed with its seconds once its result is kept."""

    def __init__(self, name: str, stage: StageT, observer: Observer, keep: Callable[[Any], None] | None = None) -> None:
        self.name, self.stage, self._observer, self._keep = name, stage, observer, keep

    def __call__(self, first: Any, *rest: Any) -> Any:
        """The stage's result; `first` is a chunk or a value that knows its own."""
        span: ChunkSpan = first if isinstance(first, ChunkSpan) else first.span
        started = perf_counter()
        value = self.stage(first, *rest)
        if self._keep is not None:
            self._keep(value)
        seconds = perf_counter() - started
        self._observer.event(f"{self.name}.chunk", chunk=span.index, scene=span.scene, seconds=seconds)
        return value


def embed(take: Take, observer: Observer) -> Act[EmbedStage]:
    """Chunk -> its cue: prompts by guidance branch, and the latents that are given."""
    return Act("embed", EmbedStage(take.model.text, take.plan, take.given), observer)


def denoise(take: Take, observer: Observer, parallel: Parallel = ONE_RANK) -> Act[DenoiseStage]:
    """Chunk, cue -> latents, kept."""
    stage = DenoiseStage(take.model, take.plan, take.finished, parallel)
    return Act("denoise", stage, observer, take.journal.keep_latents)


def denoise_along(take: Take, parallel: Parallel) -> Act[DenoiseStage]:
    """Chunk, prompts -> latents, on the other ranks of a gang: one keeps them for all, and tells."""
    return Act("denoise", DenoiseStage(take.model, take.plan, take.finished, parallel), SILENT)


def decode(take: Take, observer: Observer) -> Act[DecodeStage]:
    """Latents, and those that their picture looks ahead to -> frames, sound."""
    given_sound = None if take.plan.storyboard.audio.file is None else take.given.sound
    return Act("decode", DecodeStage(take.model, take.plan, take.finished, given_sound), observer)


def upscale(take: Take, observer: Observer) -> Callable[[FrameChunk], FrameChunk]:
    """Frames -> larger frames; the same frames where the storyboard does not ask for that."""
    if take.upscaler is None:
        return as_they_are
    return Act("upscale", UpscaleStage(take.model, take.upscaler, take.plan, take.finished), observer)


def as_they_are(frames: FrameChunk) -> FrameChunk:
    """The act of a film that is not upscaled: nothing."""
    return frames


def encode(take: Take, observer: Observer) -> Act[EncodeStage]:
    """Frames, sound -> segment, kept."""
    storyboard = take.plan.storyboard
    stage = EncodeStage(storyboard.video.fps, storyboard.output.quality)
    return Act("encode", stage, observer, take.journal.keep_segment)


def publish(take: Take, observer: Observer) -> Act[PublishStage]:
    """Segment -> the film, growing; its stage is a context manager."""
    scratch = Path(take.store.url_of("journal/scratch")) if take.store.is_local else None
    stage = PublishStage(take.store, PublishOptions.of(take.plan, take.model.credit, scratch))
    return Act("publish", stage, observer)


ACTS: Mapping[str, Callable[[Take, Observer], Any]] = {
    "embed": embed,
    "denoise": denoise,
    "decode": decode,
    "upscale": upscale,
    "encode": encode,
    "publish": publish,
}
"""All acts, in the order of the road."""
