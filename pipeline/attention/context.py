"""What an attention layer calls. It never learns about caches, ranks or sparsity: the builder decided those.

Shapes: b batch, h heads, l tokens of one stream, d head width, a axes of position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.attention.kernels import attend
from pipeline.attention.kv_plan import KVPlan
from pipeline.attention.rope import Rope


class Site(NamedTuple):
    """One attention operation of a model: its layer, and which streams meet there ("joint", "video_self" ...)."""

    layer: int
    kind: str


class QKV(NamedTuple):
    """Queries, keys and values of one stream, each [b h l d], before rotation; `q` is None where it only is read."""

    q: Tensor | None
    k: Tensor
    v: Tensor


class AttentionContext(Protocol):
    """Attention of one forward pass over whatever its tokens may see."""

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Attend from every stream's queries over the visible keys of all streams of the site.

        Args:
            site: where in the model this happens.
            streams: the pass's own queries, keys and values.
            positions: float64 [l, a] per stream. A stream without positions (text) lies where the attending chunk
                begins, whatever the time, and is not kept.

        Returns:
            The output [b h l d] of every stream that has queries.
        """
        ...


@dataclass(frozen=True)
class ChunkLengths:
    """One chunk of an uncached pass: its tokens in each stream and its times in seconds."""

    tokens: Mapping[str, int]
    start_s: Fraction
    stop_s: Fraction


class ChunkCausalContext:
    """Chunk-causal attention over a whole sequence at once, without a cache: for training, and as the plain truth
    that the KV store is tested against.

    Args:
        chunks: what the sequence is made of; each sees itself, the sink and the window before it.
        plan: the visibility rule, counted from the sequence's first chunk.
        rope: positions to rotations.
    """

    def __init__(self, chunks: Sequence[ChunkLengths], plan: KVPlan, rope: Rope) -> None:
        self._chunks, self._plan, self._rope = chunks, plan, rope

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `AttentionContext.attend`."""
        rotations = {name: self._rope.rotation(positions[name]) for name in streams if name in positions}
        roped = {
            name: (rotations[name](qkv.q), rotations[name](qkv.k))
            for name, qkv in streams.items()
            if name in positions and qkv.q is not None
        }
        out: dict[str, list[Tensor]] = {name: [] for name in roped}
        for index in range(len(self._chunks)):
            q = torch.cat([roped[name][0][:, :, self._tokens(name, index)] for name in roped], dim=2)
            keys, values = self._visible(index, streams, positions, {name: k for name, (_, k) in roped.items()})
            result, _ = attend(q, torch.cat(keys, dim=2), torch.cat(values, dim=2))
            sizes = [self._chunks[index].tokens[name] for name in roped]
            for name, piece in zip(roped, torch.split(result, sizes, dim=2), strict=True):
                out[name].append(piece)
        return {name: torch.cat(pieces, dim=2) for name, pieces in out.items()}

    def _visible(
        self, index: int, streams: Mapping[str, QKV], positions: Mapping[str, Tensor], roped: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values that chunk `index` sees, the sink moved to just before the window."""
        visible = [*self._plan.visible(0, index), index]
        sinks = [chunk for chunk in visible[:-1] if chunk < self._plan.sink]
        window = visible[len(sinks) :]
        shift_s = self._chunks[window[0]].start_s - self._chunks[sinks[-1]].stop_s if sinks else Fraction(0)
        keys, values = [], []
        for name, qkv in streams.items():
            if name not in positions:
                begin = self._rope.rotation(self._rope.origin(qkv.k.shape[2]), self._chunks[index].start_s)
                keys.append(begin(qkv.k))
                values.append(qkv.v)
                continue
            for chunk in visible:
                tokens = self._tokens(name, chunk)
                moved = self._rope.rotation(positions[name][tokens], shift_s) if chunk in sinks else None
                keys.append(moved(qkv.k[:, :, tokens]) if moved else roped[name][:, :, tokens])
                values.append(qkv.v[:, :, tokens])
        return keys, values

    def _tokens(self, name: str, chunk: int) -> slice:
        start = sum(c.tokens[name] for c in self._chunks[:chunk])
        return slice(start, start + self._chunks[chunk].tokens[name])
