"""What an attention layer calls. It never learns about caches, ranks or sparsity: the builder decided those.

Shapes: b batch, h heads, l tokens of one stream, d head width, a axes of position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.attention.kernels import attend_all
from pipeline.attention.kv_plan import KVPlan
from pipeline.attention.rope import Rope, Rotation


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
            positions: float64 [l, a] of each whole stream, also where the pass has some of its rows. A stream without
                positions (text) lies where the attending chunk begins, whatever the time, and is not kept.

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
        self._rotations: dict[str, Rotation] = {}

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `AttentionContext.attend`."""
        for name in positions.keys() - self._rotations.keys():
            self._rotations[name] = self._rope.rotation(positions[name])
        texts = [qkv for name, qkv in streams.items() if name not in positions]
        cut = {name: self._cut(name, qkv) for name, qkv in streams.items() if name in positions}
        out: dict[str, list[Tensor]] = {name: [] for name in cut}
        for index, chunk in enumerate(self._chunks):
            begin = [self._rope.rotation(self._rope.origin(text.k.shape[2]), chunk.start_s) for text in texts]
            keys = [rotate(text.k) for rotate, text in zip(begin, texts, strict=True)]
            values = [text.v for text in texts]
            for name, stream in cut.items():
                seen_keys, seen_values = self._visible(index, stream, positions[name])
                keys += seen_keys
                values += seen_values
            q = torch.cat([stream.q[index] for stream in cut.values()], dim=2)
            result = attend_all(q, torch.cat(keys, dim=2), torch.cat(values, dim=2))
            sizes = [chunk.tokens[name] for name in cut]
            for name, piece in zip(cut, torch.split(result, sizes, dim=2), strict=True):
                out[name].append(piece)
        return {name: torch.cat(pieces, dim=2) for name, pieces in out.items()}

    def _cut(self, name: str, qkv: QKV) -> "_Cut":
        sizes, rotate = [chunk.tokens[name] for chunk in self._chunks], self._rotations[name]
        assert qkv.q is not None, f"{name} has positions, so it asks too"
        q, k, v = (torch.split(x, sizes, dim=2) for x in (rotate(qkv.q), rotate(qkv.k), qkv.v))
        sink_keys = torch.split(qkv.k, sizes, dim=2)[: self._plan.sink]
        return _Cut(q, k, v, *([self._past(x) for x in pieces] for pieces in (k, v, sink_keys)))

    def _visible(self, index: int, stream: "_Cut", positions: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """One stream's keys and values that chunk `index` sees, the sink moved to just before the window."""
        visible = self._plan.visible(0, index)
        sinks = [chunk for chunk in visible if chunk < self._plan.sink]
        window = [*visible[len(sinks) :], index]
        shift_s = self._chunks[window[0]].start_s - self._chunks[sinks[-1]].stop_s if sinks else Fraction(0)
        places = torch.split(positions, [k.shape[2] for k in stream.k])
        moved = [self._rope.rotation(places[chunk], shift_s)(stream.sink_keys[chunk]) for chunk in sinks]
        keys = [*moved, *(stream.past_keys[chunk] for chunk in window[:-1]), stream.k[index]]
        return keys, [*(stream.past_values[chunk] for chunk in visible), stream.v[index]]

    def _past(self, tokens: Tensor) -> Tensor:
        """What later chunks see of a chunk's keys or values [b h l d]."""
        return tokens


class _Cut(NamedTuple):
    """One stream cut into chunks, rotated: its own queries, keys and values, and what later chunks see of them.

    The sink's keys are raw. Each is cut once, since a slice for every use costs training a full-sized gradient.
    """

    q: Sequence[Tensor]
    k: Sequence[Tensor]
    v: Sequence[Tensor]
    past_keys: Sequence[Tensor]
    past_values: Sequence[Tensor]
    sink_keys: Sequence[Tensor]
