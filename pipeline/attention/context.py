"""What an attention layer calls. A layer does not know about caches, ranks, masks or sparsity: the builder chose those.

Shapes: b batch, h heads, l tokens of one stream, d head width, a axes of position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.kernels import attend_all
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.rope import Rope, Ropes, Rotation, rope_of


class Site(NamedTuple):
    """One attention operation of a model: its layer, and which streams meet there ("joint", "video_self" ...)."""

    layer: int
    kind: str


class Pass(NamedTuple):
    """Which run of the denoiser over a chunk this is.

    Args:
        step: the denoising step, from 0; None for the clean pass, which writes the keys of a finished chunk and is
            never cached or skipped.
        branch: the guidance branch.
    """

    step: int | None
    branch: str


class QKV(NamedTuple):
    """Queries, keys and values of one stream, each [b h l d], before rotation; `q` is None for a key-only stream."""

    q: Tensor | None
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class PromptKV:
    """Keys and values of a stream without queries that depend on nothing but a prompt, so that a context may keep them
    for as long as the prompt's tokens are the same tensor.

    Args:
        source: what they are made of, [b l e].
        owner: the layer that makes them.
        make: makes keys and values, each [b h l d] before rotation.
    """

    source: Tensor
    owner: object
    make: Callable[[], tuple[Tensor, Tensor]]

    def made(self) -> QKV:
        """Keys and values, made now."""
        return QKV(None, *self.make())


@dataclass(frozen=True)
class HeldKV:
    """A stream that a pass does not bring: what the last pass over the same chunk and branch wrote at the site is seen
    again, if keys of the stream lie there. Only KV stores that keep the pages of their passes know it.

    Args:
        length: of the whole stream.
    """

    length: int


Meeting = Mapping[str, QKV | PromptKV | HeldKV]
"""The streams that meet at a site."""


def made(streams: Meeting) -> dict[str, QKV]:
    """The streams with all keys and values made."""
    found: dict[str, QKV] = {}
    for name, stream in streams.items():
        assert not isinstance(stream, HeldKV), f"{name} is held; only a KV store holds keys"
        found[name] = stream.made() if isinstance(stream, PromptKV) else stream
    return found


class AttentionContext(Protocol):
    """Attention of one forward pass over everything that its tokens may see."""

    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Attend from every stream's queries over the visible keys of all streams of the site.

        Args:
            site: of the model.
            streams: the pass's own queries, keys and values.
            positions: float64 [l, a] of each whole stream, even if the pass has only some of its rows. A stream without
                positions (text) lies where the attending chunk begins, at any time, and is not kept.

        Returns:
            The output [b h l d] of every stream that has queries.
        """
        ...

    def silent(self, layer: int) -> tuple[str, ...]:
        """The kinds of sites of a layer at which it returns no output."""
        del layer
        return ()


class Held(AttentionContext):
    """A context of passes that leave out some streams, of which the others see the keys of an earlier pass.

    Args:
        context: of all streams.
        lengths: of the whole streams that are left out.
    """

    def __init__(self, context: AttentionContext, lengths: Mapping[str, int]) -> None:
        self._context, self._held = context, {name: HeldKV(length) for name, length in lengths.items()}

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._context.attend(site, {**streams, **self._held}, positions)

    @override
    def silent(self, layer: int) -> tuple[str, ...]:
        return self._context.silent(layer)


@dataclass(frozen=True)
class ChunkLengths:
    """One chunk of an uncached pass: its tokens in each stream and its times in seconds."""

    tokens: Mapping[str, int]
    start_s: Fraction
    stop_s: Fraction


class ChunkCausalContext(AttentionContext):
    """Chunk-causal attention over a whole sequence at once, without a cache: for training, and as the reference in
    tests of the KV store.

    Args:
        chunks: of the sequence; each sees itself, the sink and the window before it.
        plan: the visibility rule, counted from the sequence's first chunk.
        rope: positions to rotations.
    """

    def __init__(self, chunks: Sequence[ChunkLengths], plan: KVPlan, rope: Ropes) -> None:
        self._chunks, self._plan, self._ropes = chunks, plan, rope
        self._rotations: dict[tuple[str, str], Rotation] = {}

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        streams = made(streams)
        if not positions:  # no stream has a place in time, so all chunks see the same keys
            every = [
                torch.cat(parts, dim=2) for parts in zip(*((qkv.k, qkv.v) for qkv in streams.values()), strict=True)
            ]
            return {name: attend_all(qkv.q, *every) for name, qkv in streams.items() if qkv.q is not None}
        rope = rope_of(self._ropes, site.kind)
        texts = [qkv for name, qkv in streams.items() if name not in positions]
        cut = {
            name: self._cut(name, qkv, self._rotation(site.kind, name, positions[name]))
            for name, qkv in streams.items()
            if name in positions
        }
        querying = {name: stream.q for name, stream in cut.items() if stream.q is not None}
        out: dict[str, list[Tensor]] = {name: [] for name in querying}
        for index, chunk in enumerate(self._chunks):
            begin = [rope.rotation(rope.origin(text.k.shape[2], text.k.device), chunk.start_s) for text in texts]
            keys = [rotate(text.k) for rotate, text in zip(begin, texts, strict=True)]
            values = [text.v for text in texts]
            for name, stream in cut.items():
                seen_keys, seen_values = self._visible(index, stream, positions[name], rope)
                keys += seen_keys
                values += seen_values
            q = torch.cat([queries[index] for queries in querying.values()], dim=2)
            result = attend_all(q, torch.cat(keys, dim=2), torch.cat(values, dim=2))
            sizes = [chunk.tokens[name] for name in querying]
            for name, piece in zip(querying, torch.split(result, sizes, dim=2), strict=True):
                out[name].append(piece)
        return {name: torch.cat(pieces, dim=2) for name, pieces in out.items()}

    def _rotation(self, kind: str, name: str, positions: Tensor) -> Rotation:
        """The rotation of a whole stream at sites of that kind; computed at the first layer."""
        if (kind, name) not in self._rotations:
            self._rotations[kind, name] = rope_of(self._ropes, kind).rotation(positions)
        return self._rotations[kind, name]

    def _cut(self, name: str, qkv: QKV, rotate: Rotation) -> "_Cut":
        sizes = [chunk.tokens[name] for chunk in self._chunks]
        q = None if qkv.q is None else torch.split(rotate(qkv.q), sizes, dim=2)
        if not qkv.k.shape[2]:  # a query-only stream
            nothing = [qkv.k] * len(sizes)
            return _Cut(q, nothing, nothing, nothing, nothing, nothing)
        k, v = (torch.split(x, sizes, dim=2) for x in (rotate(qkv.k), qkv.v))
        sink_keys = torch.split(qkv.k, sizes, dim=2)[: self._plan.sink]
        return _Cut(q, k, v, *([self._past(x) for x in pieces] for pieces in (k, v, sink_keys)))

    def _visible(self, index: int, stream: "_Cut", positions: Tensor, rope: Rope) -> tuple[list[Tensor], list[Tensor]]:
        """One stream's keys and values that chunk `index` sees, the sink shifted to end where the window begins."""
        visible = self._plan.visible(0, index)
        sinks = [chunk for chunk in visible if chunk < self._plan.sink]
        window = [*visible[len(sinks) :], index]
        shift_s = self._chunks[window[0]].start_s - self._chunks[sinks[-1]].stop_s if sinks else Fraction(0)
        keys = [stream.past_keys[chunk] for chunk in window[:-1]]
        if sinks and stream.k[0].shape[2]:
            places = torch.split(positions, [k.shape[2] for k in stream.k])
            keys = [*(rope.rotation(places[chunk], shift_s)(stream.sink_keys[chunk]) for chunk in sinks), *keys]
        return [*keys, stream.k[index]], [*(stream.past_values[chunk] for chunk in visible), stream.v[index]]

    def _past(self, tokens: Tensor) -> Tensor:
        """What later chunks see of a chunk's keys or values [b h l d]."""
        return tokens


class _Cut(NamedTuple):
    """One stream cut into chunks, rotated: its own queries, keys and values, and what later chunks see of them.

    The sink's keys are not rotated. Each is cut once, because in training every slice costs a full-sized gradient.
    """

    q: Sequence[Tensor] | None
    k: Sequence[Tensor]
    v: Sequence[Tensor]
    past_keys: Sequence[Tensor]
    past_values: Sequence[Tensor]
    sink_keys: Sequence[Tensor]
