"""Scenes that cuts separate, denoised at once: every gang has sections of its own, and works ahead of the road.

A cut empties the KV store, so the latents of a section depend on no other one, and rendering them early or late gives
the same bits. They wait in the journal until the road comes by.
"""

from collections import deque
from collections.abc import Callable, Sequence

import ray
from ray import ObjectRef

from longtake.actors.actor_group import ActorGroup
from longtake.pipeline.clock import ChunkSpan


class SectionPrefetcher:
    """Denoises as a gang does; sections are dealt out to the gangs in turn.

    Args:
        gangs: whoever denoises; with one, nothing is done ahead.
        embed: who turns a chunk into prompts.
        chunks: of the whole film.
        kept: whether a chunk's latents are in the journal.
    """

    def __init__(
        self, gangs: Sequence[ActorGroup], embed: ActorGroup, chunks: Sequence[ChunkSpan], kept: Callable[[int], bool]
    ) -> None:
        self._gangs, self._embed, self._kept = gangs, embed, kept
        sections = sorted({chunk.section for chunk in chunks})
        self._gang_of = {section: number % len(gangs) for number, section in enumerate(sections)}
        self._todo: list[deque[ChunkSpan]] = [deque() for _ in gangs]
        for chunk in chunks:
            self._todo[self._gang_of[chunk.section]].append(chunk)
        self._early: list[tuple[ChunkSpan, ObjectRef] | None] = [None] * len(gangs)
        self._asked: dict[int, ObjectRef] = {}
        self._now = 0

    def remote(self, chunk: ChunkSpan) -> ObjectRef:
        """A reference to the chunk's latents, from its section's gang, which may be at it already. Once they are there,
        whoever wants them again finds them in the journal."""
        self._asked = {index: ref for index, ref in self._asked.items() if index == chunk.index or not _there(ref)}
        if chunk.index not in self._asked:
            self._asked[chunk.index] = self._ask(chunk)
        return self._asked[chunk.index]

    def _ask(self, chunk: ChunkSpan) -> ObjectRef:
        number = self._now = self._gang_of[chunk.section]
        early = self._early[number]
        if early is not None and early[0].index == chunk.index:
            return early[1]
        todo = self._todo[number]
        while todo and todo[0].index <= chunk.index:
            todo.popleft()
        return self._denoise(number, chunk)

    def look(self) -> None:
        """Give every gang that waits for the road its next chunk. Raises what an early chunk raised."""
        for number, early in enumerate(self._early):
            if early is not None:
                if not _there(early[1]):
                    continue
                ray.get(early[1])
                self._early[number] = None
            if number != self._now and (chunk := self._next(number)) is not None:
                self._early[number] = (chunk, self._denoise(number, chunk))

    def _next(self, number: int) -> ChunkSpan | None:
        todo = self._todo[number]
        while todo and self._kept(todo[0].index):
            todo.popleft()
        return todo.popleft() if todo else None

    def _denoise(self, number: int, chunk: ChunkSpan) -> ObjectRef:
        latents: ObjectRef = self._gangs[number].remote(chunk, self._embed.remote(chunk))
        return latents


def _there(ref: ObjectRef) -> bool:
    return bool(ray.wait([ref], timeout=0)[0])
