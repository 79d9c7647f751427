"""The continuation rollout: long films from weights that were trained on whole clips, without a cache.

    for every chunk:   one bidirectional pass holds it and the last clean latents before it, the overlap
                       denoise both streams together; the overlap stays as it is
                       keep the chunk's own latents

Latents are passed on, never pixels: nothing is encoded again, so errors of the codecs do not add up. A section's first
chunk has no overlap, unless the film continues another one. The overlap consists of given latents like any others (see
`values.Given`), for both streams, as in the continuations of LongCat-Video and LTX-2.

Shapes: b batch (1), f latent frames, c channels, h w latent height and width, l audio latents.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.models.branches import EVERY_BRANCH, Branches
from longtake.pipeline.models.protocols import Denoiser
from longtake.pipeline.rollouts import Continuation, holding, widened
from longtake.pipeline.sampling.engine import Prompts, RolloutEngine, Sampling, Scope, latent_dtype
from longtake.pipeline.values import Conditioning, Given, GivenLatents, LatentChunk


class ContinuationEngine(RolloutEngine):
    """Renders chunks in order, each with the overlap before it; nothing is committed to the store.

    Args:
        segment: the length of the overlap, and whether it enters a pass clean.
        denoiser, store, clock, sampling, latent_shapes, passes: see `RolloutEngine`; the store's pages hold the longest
            chunk with its overlap.
    """

    def __init__(
        self,
        segment: Continuation,
        denoiser: Denoiser,
        store: KVStore,
        clock: MediaClock,
        sampling: Sampling,
        latent_shapes: Mapping[str, Sequence[int]],
        passes: Branches = EVERY_BRANCH,
    ) -> None:
        super().__init__(denoiser, store, clock, sampling, latent_shapes, passes)
        self._segment = segment

    @torch.inference_mode()
    def denoise(self, chunk: ChunkSpan, prompts: Prompts, given: Given | None = None) -> LatentChunk:
        """The clean latents of `chunk`, whose predecessors were rendered or resumed; given latents stay as they are."""
        latents = self.rehearse(chunk, prompts, given)
        self.finish(latents, prompts)
        return latents

    @torch.inference_mode()
    def rehearse(self, chunk: ChunkSpan, prompts: Prompts, given: Given | None = None) -> LatentChunk:
        """As `denoise`, but the chunk is not finished: other latents may be, or it may be rehearsed again."""
        scope = self._scope(chunk, given)
        values = self._from_noise(scope, prompts)
        own = {name: values[name][0, first:] for name, first in _own(scope.span, chunk).items()}
        return LatentChunk(chunk, own["video"].cpu(), own["audio"].cpu())

    def start(self, _chunk: ChunkSpan, _prompts: Prompts) -> None:
        """Nothing is needed before a chunk: its past is finished latents."""

    def finish(self, latents: LatentChunk, _prompts: Prompts) -> None:
        """Make latents those of their chunk, which later chunks continue."""
        self._remember(latents)

    def resume(self, finished: Iterable[LatentChunk], _chunk: ChunkSpan, _prompts: Prompts) -> None:
        """Restore the state of an undisturbed run before the next chunk.

        Args:
            finished: the chunks that hold the overlap, in order.
        """
        self._finished = {latents.span.index: latents for latents in finished}

    @torch.inference_mode()
    def dry_pass(self, latents: LatentChunk, conditioning: Conditioning) -> None:
        """One pass of the cost of the next chunk's, in all branches, over finished `latents`: to be timed."""
        scope = self._scope(latents.span, conditioning.given)
        values = {name: self._noise(scope.span, name, draw=0) for name in self.latent_shapes}
        streams = {name: self._inputs(scope, name, [1.0], x.dtype).stream(x, 0) for name, x in values.items()}
        self._guided(streams, scope.span, self._sent(conditioning.prompts), 0)
        self._remember(latents)

    def _scope(self, chunk: ChunkSpan, given: Given | None) -> Scope:
        """The passes over `chunk`: the overlap before it is given, and so are the latents of `given`."""
        spans = [span.span for span in self._before(chunk)]
        span = widened(self.clock, spans, chunk, self._segment.overlap)
        own, times_s = _own(span, chunk), {}
        for name in own:
            times = [time for piece in (*spans, chunk) for time in self.times_s(piece)[name]]
            times_s[name] = times[len(times) - own[name] - len(_latents(chunk, name)) :]
        return Scope(span, times_s, self._given(chunk, given, own), self._segment.clean)

    def _given(self, chunk: ChunkSpan, given: Given | None, own: Mapping[str, int]) -> dict[str, GivenLatents]:
        """The given latents of a widened chunk whose own latents begin at the places `own`."""
        found = {}
        for name, first in own.items():
            before = [getattr(latents, name) for latents in self._before(chunk)]
            parts = [torch.cat(before)[-first:]] if first else []
            places = [*range(first)]
            held, level = None, 1.0
            if given is not None and name in given.streams:
                own_given = given.streams[name]
                parts.append(own_given.values)
                places += [first + place for place in own_given.places]
                level = own_given.level
                if own_given.held is not None:
                    held = torch.cat((own_given.held.new_ones(first, *own_given.held.shape[1:]), own_given.held))
            if places:
                found[name] = GivenLatents(tuple(places), _joined(parts, self.store), held, level)
        return found

    def _before(self, chunk: ChunkSpan) -> list[LatentChunk]:
        """The finished chunks of the section, in order."""
        return [self._finished[index] for index in sorted(self._finished) if chunk.section <= index < chunk.index]

    def _remember(self, latents: LatentChunk) -> None:
        """Keep the chunks that hold the next chunk's overlap."""
        chunk = latents.span
        spans = [*(kept.span for kept in self._before(chunk)), chunk]
        self._finished[chunk.index] = latents
        needed = {span.index for span in holding(spans, self._segment.overlap)}
        self._finished = {index: kept for index, kept in self._finished.items() if index in needed}


def _own(span: ChunkSpan, chunk: ChunkSpan) -> dict[str, int]:
    """The place in a widened span at which the chunk's own latents begin, by stream."""
    return {name: _latents(chunk, name).start - _latents(span, name).start for name in ("video", "audio")}


def _latents(span: ChunkSpan, name: str) -> range:
    return {"video": span.latents, "audio": span.audio_latents}[name]


def _joined(parts: Sequence[Tensor], store: KVStore) -> Tensor:
    return torch.cat([part.to(store.device, latent_dtype(store.dtype)) for part in parts])
