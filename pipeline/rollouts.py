"""How chunks follow each other, on plain ints: what a pass holds, and which earlier chunks it needs.

A rollout says nothing about tensors. The engines in `pipeline/sampling/` run it; `stages/denoise.py` picks the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from typing_extensions import override

from longtake.pipeline.attention.kv_plan import NOTHING_KEPT, KVPlan
from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.errors import SpecError


class Rollout(Protocol):
    """How a film becomes longer than a model's clip. Every `kv_plan` argument is the model's own."""

    @property
    def opening_latents(self) -> int:
        """Video latents by which a section's first chunk is longer than the others, since no overlap precedes it."""
        ...

    @property
    def has_clean_pass(self) -> bool:
        """Whether each chunk ends with a clean pass, which writes its keys and values to the KV store."""
        ...

    def kv_plan(self, kv_plan: KVPlan) -> KVPlan:
        """What the KV store keeps of finished chunks."""
        ...

    def latents_before(self, kv_plan: KVPlan, chunk_latents: int) -> int:
        """Video latents that a film needs of the film that it continues."""
        ...

    def history(self, kv_plan: KVPlan, earlier: Sequence[ChunkSpan], chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunks whose latents a denoiser needs to resume at `chunk`, in order.

        Args:
            earlier: all chunks of its section before it, in order.
        """
        ...

    def pass_span(self, clock: MediaClock, earlier: Sequence[ChunkSpan], chunk: ChunkSpan) -> ChunkSpan:
        """What the passes that render `chunk` hold; `earlier` as for `history`."""
        ...

    def all_passes(
        self, clock: MediaClock, before: Sequence[ChunkSpan], chunks: Sequence[ChunkSpan]
    ) -> list[ChunkSpan]:
        """What each pass of a film holds.

        Args:
            before: the chunks of the film that it continues.
            chunks: its own.
        """
        ...

    def describe(self, kv_plan: KVPlan) -> str:
        """The rollout in the words of the journal's keys. Another wording is another key."""
        ...

    def describe_context(self, kv_plan: KVPlan) -> str:
        """What a pass sees in addition to its chunk, for a person."""
        ...


@dataclass(frozen=True)
class Causal(Rollout):
    """Chunk after chunk, each of which sees earlier ones through the KV store. For weights that were trained so."""

    @property
    @override
    def opening_latents(self) -> int:
        return 0

    @property
    @override
    def has_clean_pass(self) -> bool:
        return True

    @override
    def kv_plan(self, kv_plan: KVPlan) -> KVPlan:
        return kv_plan

    @override
    def latents_before(self, kv_plan: KVPlan, chunk_latents: int) -> int:
        return kv_plan.window * chunk_latents

    @override
    def history(self, kv_plan: KVPlan, earlier: Sequence[ChunkSpan], chunk: ChunkSpan) -> list[ChunkSpan]:
        indices = kv_plan.history(chunk.section, chunk.scene_start, chunk.index)
        return [earlier[index - chunk.section] for index in indices]

    @override
    def pass_span(self, clock: MediaClock, earlier: Sequence[ChunkSpan], chunk: ChunkSpan) -> ChunkSpan:
        return chunk

    @override
    def all_passes(
        self, clock: MediaClock, before: Sequence[ChunkSpan], chunks: Sequence[ChunkSpan]
    ) -> list[ChunkSpan]:
        return [*before, *chunks]  # clean passes run over the chunks before the film, too

    @override
    def describe(self, kv_plan: KVPlan) -> str:
        return f"causal, window {kv_plan.window}, sink {kv_plan.sink}, rebuilt every {kv_plan.refresh_every}"

    @override
    def describe_context(self, kv_plan: KVPlan) -> str:
        return f"seeing {kv_plan.sink} sink and {kv_plan.window} window chunks"


@dataclass(frozen=True)
class Continuation(Rollout):
    """Chunk after chunk, each rendered in one piece with the clean latents right before it. For bidirectional weights.

    Args:
        overlap: video latents before a chunk that it continues, with the sound of their time.
        clean: whether they are shown clean, at noise level 0. Otherwise they are noised to the level of the step, for
            weights that know one level for all latent frames.
    """

    overlap: int
    clean: bool = True

    def __post_init__(self) -> None:
        if self.overlap < 0:
            raise SpecError(f"overlap is {self.overlap}; use 0 or more video latents")

    @property
    @override
    def opening_latents(self) -> int:
        return self.overlap

    @property
    @override
    def has_clean_pass(self) -> bool:
        return False

    @override
    def kv_plan(self, kv_plan: KVPlan) -> KVPlan:
        return NOTHING_KEPT

    @override
    def latents_before(self, kv_plan: KVPlan, chunk_latents: int) -> int:
        return max(1, self.overlap)

    @override
    def history(self, kv_plan: KVPlan, earlier: Sequence[ChunkSpan], chunk: ChunkSpan) -> list[ChunkSpan]:
        return holding(earlier, self.overlap)

    @override
    def pass_span(self, clock: MediaClock, earlier: Sequence[ChunkSpan], chunk: ChunkSpan) -> ChunkSpan:
        return widened(clock, holding(earlier, self.overlap), chunk, self.overlap)

    @override
    def all_passes(
        self, clock: MediaClock, before: Sequence[ChunkSpan], chunks: Sequence[ChunkSpan]
    ) -> list[ChunkSpan]:
        spans, first = [*before, *chunks], len(before)
        return [self.pass_span(clock, spans[chunk.section + first : chunk.index + first], chunk) for chunk in chunks]

    @override
    def describe(self, kv_plan: KVPlan) -> str:
        shown = "clean" if self.clean else "noised"
        return f"segments, each after {self.overlap} latents shown {shown}"

    @override
    def describe_context(self, kv_plan: KVPlan) -> str:
        return f"{self.overlap} video latents of overlap among them"


def holding(before: Sequence[ChunkSpan], overlap: int) -> list[ChunkSpan]:
    """The last of the chunks `before` that together hold `overlap` video latents, in order."""
    found: list[ChunkSpan] = []
    for span in reversed(before):
        if sum(len(chunk.latents) for chunk in found) >= overlap:
            break
        found.insert(0, span)
    return found


def widened(clock: MediaClock, before: Sequence[ChunkSpan], chunk: ChunkSpan, overlap: int) -> ChunkSpan:
    """`chunk` with up to `overlap` video latents right before it, and the audio latents of their time.

    Args:
        before: the chunks of its section that hold them, in order.
    """
    borders = [frame for span in before for frame in clock.latent_starts(span)]
    count = min(overlap, len(borders))
    if not count:
        return chunk
    frame = borders[-count]
    return replace(
        chunk,
        latents=range(chunk.latents.start - count, chunk.latents.stop),
        audio_latents=range(clock.audio_latents(frame), chunk.audio_latents.stop),
        frames=range(frame, chunk.frames.stop),
        samples=range(clock.samples(frame), chunk.samples.stop),
        start_s=clock.seconds(frame),
    )
