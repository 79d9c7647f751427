"""Scenes between cuts are denoised in parallel: each gang has sections of its own and works ahead of the film.

A cut empties the KV store, so the latents of a section depend on no other section, and the order in which sections are
denoised does not change the bits. Latents that are finished early wait in the journal until the film reaches them.
"""

from collections import deque
from collections.abc import Callable, Sequence

import ray

from longtake.actors.actor_group import ActorGroup
from longtake.actors.handles import Ref
from longtake.pipeline.clock import ChunkSpan


class SectionPrefetcher:
    """Denoises as a single gang does; sections are assigned to the gangs round-robin.

    Args:
        gangs: with one gang, nothing is denoised ahead.
        embed: turns a chunk into its conditioning.
        chunks: of the whole film.
        kept: whether a chunk's latents are in the journal.
    """

    def __init__(
        self, gangs: Sequence[ActorGroup], embed: ActorGroup, chunks: Sequence[ChunkSpan], kept: Callable[[int], bool]
    ) -> None:
        self._gangs, self._embed, self._kept = gangs, embed, kept
        sections = sorted({chunk.section for chunk in chunks})
        self._gang_of = {section: number % len(gangs) for number, section in enumerate(sections)}
        self._pending: list[deque[ChunkSpan]] = [deque() for _ in gangs]
        for chunk in chunks:
            self._pending[self._gang_of[chunk.section]].append(chunk)
        self._ahead: list[tuple[ChunkSpan, Ref] | None] = [None] * len(gangs)
        self._requested: dict[int, Ref] = {}
        self._current = 0

    def remote(self, chunk: ChunkSpan) -> Ref:
        """A reference to the chunk's latents, from the gang of its section, which may have started it already.

        Finished latents are in the journal, so only references that are not ready are remembered.
        """
        self._requested = {
            index: ref for index, ref in self._requested.items() if index == chunk.index or not _is_ready(ref)
        }
        if chunk.index not in self._requested:
            self._requested[chunk.index] = self._request(chunk)
        return self._requested[chunk.index]

    def look(self) -> None:
        """Start the next chunk of every gang that would otherwise be idle. Raises what a chunk ahead raised."""
        for number, ahead in enumerate(self._ahead):
            if ahead is not None:
                if not _is_ready(ahead[1]):
                    continue
                ray.get(ahead[1])
                self._ahead[number] = None
            if number != self._current and (chunk := self._next(number)) is not None:
                self._ahead[number] = (chunk, self._denoise(number, chunk))

    def _request(self, chunk: ChunkSpan) -> Ref:
        number = self._current = self._gang_of[chunk.section]
        ahead = self._ahead[number]
        if ahead is not None and ahead[0].index == chunk.index:
            return ahead[1]
        pending = self._pending[number]
        while pending and pending[0].index <= chunk.index:
            pending.popleft()
        return self._denoise(number, chunk)

    def _next(self, number: int) -> ChunkSpan | None:
        pending = self._pending[number]
        while pending and self._kept(pending[0].index):
            pending.popleft()
        return pending.popleft() if pending else None

    def _denoise(self, number: int, chunk: ChunkSpan) -> Ref:
        latents: Ref = self._gangs[number].remote(chunk, self._embed.remote(chunk))
        return latents


def _is_ready(ref: Ref) -> bool:
    return bool(ray.wait([ref], timeout=0)[0])
