"""A take: one film, planned for a model and a place. Open it, see what of it is finished, repair it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.pipeline.adapters.loras import FilmLoras, open_loras
from longtake.pipeline.adapters.upscalers import TakeUpscaler
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.encoder import ConditioningEncoder, digests
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.finished import FilmRecord, published_state, put_finished, read_finished
from longtake.pipeline.journal.journal import Journal
from longtake.pipeline.journal.keys import FilmKeys, Parts, film_keys, loras_of
from longtake.pipeline.journal.prompts import PromptJournal
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.storyboard import put_storyboard
from longtake.pipeline.journal.take import put_take, take_card
from longtake.pipeline.media.hls import MASTER_NAME
from longtake.pipeline.models.adapted import NetworkLoras
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.observe import Observer
from longtake.pipeline.plan import FilmPlan, unusual_pages
from longtake.pipeline.provenance import TAKE_PARTS
from longtake.pipeline.retakes import TakeBefore, parts_of
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.stages.upscale import check_upscaler, decoded_with, replay_start
from longtake.pipeline.values import LatentChunk
from longtake.pipeline.weights.options import AS_STORED


@dataclass(frozen=True)
class Take:
    """One film that is rendered into one place, with everything that decides its bits.

    Args:
        numerics: what decides them in addition to the storyboard; see `pipeline/provenance.py`.
        given: the files that condition the film, encoded.
        loras: of the film.
        upscaler: None for a film that is shown at the size at which it is rendered.
        notes: what the user should know about these files.
        before: the take that the latest retake changes; None without one.
    """

    model: FilmModel
    plan: FilmPlan
    store: Store
    journal: Journal
    numerics: Parts
    given: ConditioningEncoder
    loras: FilmLoras
    upscaler: TakeUpscaler | None = None
    notes: tuple[str, ...] = ()
    before: TakeBefore | None = None

    def finished(self, chunk: ChunkSpan) -> LatentChunk | None:
        """The finished latents of a chunk of the film, or of the film that it continues. None if they are missing."""
        return self.given.before(chunk) if chunk.index < 0 else self.journal.latents(chunk)

    def decoded_with(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunk, and the later ones that its frames depend on."""
        return decoded_with(self.plan, None if self.upscaler is None else self.upscaler.grid, chunk)

    def prompts(self, of_text: Sequence[NetworkLoras]) -> PromptJournal:
        """Where the tokens of its prompts are kept.

        Args:
            of_text: the LoRAs that are attached to the text encoder.
        """
        storyboard = self.plan.storyboard

        def loras(scene: int) -> list[dict[str, Any]]:
            return loras_of(storyboard, self.loras.digests, scene) if of_text else []

        numerics = {name: part for name, part in self.numerics.items() if name not in TAKE_PARTS}
        return PromptJournal(self.store, numerics, loras)

    @property
    def film_key(self) -> str:
        """The key of the published film: equal keys mean the same film, bit for bit."""
        output = self.plan.storyboard.output
        return self.journal.film_key(
            {
                "title": self.plan.storyboard.title,
                "credit": self.model.credit,
                "film": output.film,
                "hls": output.hls,
            }
        )

    def put_finished(self, film: Film) -> None:
        """Record that the film is published."""
        name, playlist = self.plan.storyboard.output.film, None if film.playlist_url is None else MASTER_NAME
        put_finished(
            self.store,
            FilmRecord(
                key=self.film_key,
                film=name,
                playlist=playlist,
                chunks=len(self.plan.chunks),
                frames=film.num_frames,
                samples=film.num_samples,
                duration_s=film.duration_s,
                state=published_state(self.store, name, playlist),
            ),
        )

    def published(self) -> Film | None:
        """The film as it is published, if it is exactly the one that this take would render; else None."""
        record = read_finished(self.store)
        if record is None or record.key != self.film_key:
            return None
        url_of = self.store.url_of
        return Film(
            url=url_of(record.film),
            playlist_url=None if record.playlist is None else url_of(record.playlist),
            num_frames=record.frames,
            num_samples=record.samples,
            duration_s=record.duration_s,
        )

    def summary(self) -> dict[str, Any]:
        """The film in numbers, and how much of it is finished; `encoded` are ranges of chunks that have a segment."""
        plan, segments = self.plan, self.journal.kept("segments")
        return {
            "chunks": len(plan.chunks),
            "film_s": float(plan.clock.seconds(plan.num_frames)),
            "frames": plan.num_frames,
            "samples": plan.num_samples,
            "kept_latents": self.journal.num_kept("latents"),
            "kept_segments": len(segments),
            "encoded": _ranges(segments),
        }

    def begin(self) -> None:
        """Describe the take in its store, and copy what a retake leaves alone from the take that it changes."""
        plan = self.plan
        put_take(self.store, take_card(plan.storyboard, plan.clock, plan.scenes, plan.chunks))
        put_storyboard(self.store, plan.storyboard)
        if self.before is not None:
            self.before.journal.copy_to(self.journal)

    def repair(self, observer: Observer) -> None:
        """Forget each chunk whose latents are damaged and still needed, so that it is rendered again, bit for bit.

        Latents depend only on what comes before them, so a render that reaches the forgotten chunk makes the same
        ones. Damaged latents that no unfinished chunk needs are left alone. The chunks are visited from the last to
        the first, because a chunk needs earlier ones only. All segments are read, and all latents that are needed.
        """
        plan, journal = self.plan, self.journal
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
            needed.update(span.index for span in self._shown_after(chunk))
            missing = [] if denoised else [chunk]
            missing += [part for part in self.decoded_with(chunk)[1:] if not journal.holds("latents", part.index)]
            needed.update(span.index for part in missing for span in plan.history(part))

    def _shown_after(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunks whose latents the decoders and the upscaler need before they can continue at `chunk`."""
        spans = self.plan.decode_history(chunk)
        if self.upscaler is not None:
            spans += self.plan.upscale_history(chunk, replay_start(self.upscaler.grid, self.plan, chunk))
        return spans


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as half-open ranges."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found


def open_take(
    plan: FilmPlan, model: FilmModel, store: Store, numerics: Parts, cache: Path = AS_STORED.cache_folder
) -> Take:
    """Open the take of a planned film, with a journal in which finished chunks count. Nothing is written.

    Args:
        plan: made by `plan_film` for this model.
        numerics: see `pipeline/provenance.py`. Those of an opened take hold the digests of its conditioning files:
            the files must have these digests here, and are not checked again. They also describe its upscaler, and hold
            the digests of its LoRAs.
        cache: this node's folder for downloads and checksums.

    Raises:
        SpecError: a conditioning file is unusable, a LoRA is of another model, or the upscaler cannot enlarge the film.
        JournalError: a conditioning file is another one than where the take was first opened.
        WeightsError: the upscaler does not exist.
    """
    given, notes, numerics = _conditioned(model, plan, numerics)
    loras = open_loras(plan.storyboard, model, cache)
    if loras.digests:
        if tuple(numerics.get("loras", loras.digests)) != loras.digests:
            raise JournalError(
                "loras: a file is another one here than where the render began; put the same one everywhere"
            )
        numerics, notes = {**numerics, "loras": loras.digests}, (*notes, *loras.notes)
    upscaler = _open_upscaler(plan, numerics)
    grid, parts = None, numerics
    if upscaler is not None:
        grid, parts = upscaler.grid, {**numerics, "upscaler": upscaler.fingerprint}
        numerics = {**numerics, "upscaler": upscaler.card()}
    parts = {**parts, **unusual_pages(plan, model)}
    comes_in = {
        file.key: plan.place_of(file)[0] for file in plan.storyboard.conditioning_files() if file.scene is not None
    }

    def keys(num_retakes: int) -> FilmKeys:
        return film_keys(
            plan.storyboard,
            plan.chunks,
            parts,
            lambda chunk: decoded_with(plan, grid, chunk)[-1],
            unguided="unguided" in plan.branches,
            comes_in=comes_in,
            retaken=lambda chunk: parts_of(plan, chunk, num_retakes),
        )

    num_retakes = len(plan.storyboard.retakes)
    before = TakeBefore.of(plan, keys(num_retakes - 1), store) if num_retakes else None
    if before is not None:
        given = ConditioningEncoder(model, plan, before.held)
    journal, notes = Journal(store, keys(num_retakes)), (*notes, *plan.steps.notes)
    return Take(model, plan, store, journal, numerics, given, loras, upscaler, notes, before)


def _open_upscaler(plan: FilmPlan, numerics: Parts) -> TakeUpscaler | None:
    """The upscaler of a film. Its weights are loaded here only if `numerics` does not describe it yet."""
    output = plan.storyboard.output
    if output.upscale is None:
        return None
    upscaler = TakeUpscaler.of(output.upscaler, numerics.get("upscaler"))
    if "upscaler" not in numerics:
        check_upscaler(upscaler.model, output.upscale)
    return upscaler


def _conditioned(
    model: FilmModel, plan: FilmPlan, numerics: Parts
) -> tuple[ConditioningEncoder, tuple[str, ...], Parts]:
    """The encoder of a film's conditioning files, notes on them, and numerics that hold their digests."""
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
