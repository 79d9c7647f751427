"""One layer of LTX-2: each stream attends to itself and to its prompt, then to the other one as it was before.

The weights are diffusers' block; the forward pass is ours. It computes what diffusers' does, hands queries, keys and
values to the context of the pass, and starts fewer kernels.

Shapes: b batch, f latent frames, s tokens of a latent frame, l tokens of a stream, d their width, m modulations, t text
tokens, n heads, k head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformerBlock
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from longtake.pipeline.attention.context import QKV, AttentionContext, Meeting, PromptKV, Site
from longtake.pipeline.attention.fused import plus_product
from longtake.pipeline.models.protocols import Tokens

CROSS = 5
"""Modulations of the exchange between the streams: scale and shift of each direction, and a gate."""


@dataclass(frozen=True)
class LTX2Tokens(Tokens):
    """One stream inside the blocks; its modulations are those of the blocks, then `CROSS`. If all latents of the
    stream share a noise level, condition and modulation have one latent frame.

    Args:
        text: its prompt [b t d].
        text_modulation: shift and scale of the prompt [b 1 (2 d)]; None if it is read as it is.
    """

    text: Tensor
    text_modulation: Tensor | None


Scaling = tuple[Tensor, Tensor]
"""Shift and scale, the latter counted from 0."""


@dataclass(frozen=True)
class Modulation:
    """How the noise level changes one stream in one block. Each tensor is [b f s d], where frames and tokens with
    the same noise level are one.

    Args:
        film, film_gate: around self-attention.
        mlp, mlp_gate: around the MLP.
        text: shift, scale and gate around the attention to the prompt; empty in 2.0.
        cross, cross_gate: of the exchange, by its kind.
    """

    film: Scaling
    film_gate: Tensor
    mlp: Scaling
    mlp_gate: Tensor
    text: Sequence[Tensor]
    cross: Mapping[str, Scaling]
    cross_gate: Tensor


@dataclass(frozen=True)
class KeyStream:
    """A stream that another one attends to.

    Args:
        keys: its keys and values; those of a prompt where nothing else decides them. None if the pass does not bring
            the stream.
    """

    name: str
    keys: PromptKV | QKV | None


class LTX2Block(LTX2VideoTransformerBlock):  # type: ignore[misc]  # diffusers has no types
    """One of diffusers' blocks over tokens whose attention is the context's business. Layers with weights are called as
    modules, so that LoRAs, 8-bit weights and offloading work as anywhere."""

    @classmethod
    def of(cls, block: Any) -> "LTX2Block":
        """The block itself, with the forward pass of this class."""
        block.__class__ = cls
        own: LTX2Block = block
        return own

    @override
    def forward(self, tokens: Mapping[str, Tokens], context: AttentionContext, layer: int) -> dict[str, Tokens]:
        """Both streams after this layer."""
        film = {name: rearrange(stream.positions, "f s a -> (f s) a") for name, stream in tokens.items()}
        modulations = {name: self._modulation(name, stream) for name, stream in tokens.items()}
        prompts = self.prompts(tokens)
        x: dict[str, Tensor] = {}
        for name, stream in tokens.items():
            modulation = modulations[name]
            site = _AttentionSite(context, Site(layer, f"{name}_self"), {name: film[name]}, name)
            normed = _scaled(_normed(self._own("norm1", name), stream.x), modulation.film)
            own = _gated(stream.x, site.attend(self._own("attn1", name), normed), modulation.film_gate)
            site = _AttentionSite(context, Site(layer, f"{name}_text"), {}, name)
            x[name] = self._after_prompt(site, own, stream, modulation, prompts.get(site.site.kind))
        seconds = {name: positions[:, :1] for name, positions in film.items()}
        x = self._after_each_other(x, modulations, context, layer, seconds)
        for name, modulation in modulations.items():
            normed = _scaled(_normed(self._own("norm3", name), x[name]), modulation.mlp)
            x[name] = _gated(x[name], self._own("ff", name)(normed), modulation.mlp_gate)
        return {name: replace(stream, x=x[name]) for name, stream in tokens.items()}

    def prompts(self, tokens: Mapping[str, Tokens]) -> dict[str, PromptKV]:
        """Keys and values of each stream's prompt, by kind of site; none where the noise level changes them, too."""
        found = {}
        for name, stream in tokens.items():
            assert isinstance(stream, LTX2Tokens)
            if stream.text_modulation is None:
                attention = self._own("attn2", name)
                make = partial(self._prompt_keys, attention, name, stream)
                found[f"{name}_text"] = PromptKV(stream.text, attention, make)
        return found

    def _prompt_keys(self, attention: Any, name: str, tokens: LTX2Tokens) -> tuple[Tensor, Tensor]:
        return _keys(attention, self._prompt(name, tokens))

    def _own(self, part: str, stream: str) -> Any:
        """A module or parameter of one of the streams, by the name that it has for the picture."""
        return getattr(self, f"audio_{part}" if stream == "audio" else part)

    def _modulation(self, name: str, tokens: Tokens) -> Modulation:
        """That of the pass and the block's own together."""
        table = self._own("scale_shift_table", name)
        own = table + tokens.modulation[..., : len(table), :]
        own[..., 1::3, :].add_(1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *text = own.unbind(dim=-2)
        cross = getattr(self, f"{name}_a2v_cross_attn_scale_shift_table") + tokens.modulation[..., -CROSS:, :]
        cross[..., :-1:2, :].add_(1)
        a2v_scale, a2v_shift, v2a_scale, v2a_shift, cross_gate = cross.unbind(dim=-2)
        by_kind = {"a2v": (a2v_shift, a2v_scale), "v2a": (v2a_shift, v2a_scale)}
        return Modulation((shift, scale), gate, (mlp_shift, mlp_scale), mlp_gate, text, by_kind, cross_gate)

    def _after_prompt(
        self, site: "_AttentionSite", x: Tensor, tokens: Tokens, modulation: Modulation, prompt: PromptKV | None
    ) -> Tensor:
        """A stream [b f s d] after it has attended to its prompt."""
        assert isinstance(tokens, LTX2Tokens)
        normed = _normed(self._own("norm2", site.querying), x)
        attention = self._own("attn2", site.querying)
        keys = KeyStream("text", prompt or QKV(None, *self._prompt_keys(attention, site.querying, tokens)))
        if not modulation.text:
            return x + site.attend(attention, normed, keys)
        shift, scale, gate = modulation.text
        return _gated(x, site.attend(attention, _scaled(normed, (shift, scale)), keys), gate)

    def _prompt(self, name: str, tokens: LTX2Tokens) -> Tensor:
        """The prompt [b t d] as this block reads it; 2.3 modulates it."""
        text, modulation = tokens.text, tokens.text_modulation
        if not self.cross_attn_adaln:
            return text
        both = self._own("prompt_scale_shift_table", name).to(text.dtype)[None, None]
        if modulation is not None:
            both = both + rearrange(modulation, "b 1 (m d) -> b 1 m d", m=2)
        shift, scale = both.unbind(dim=-2)
        return _scaled(text, (shift, 1 + scale))

    def _after_each_other(
        self,
        x: Mapping[str, Tensor],
        modulations: Mapping[str, Modulation],
        context: AttentionContext,
        layer: int,
        seconds: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The streams [b f s d] after each has attended to the other, as it was before. Where the other one is not
        there, the context sees it as an earlier pass left it."""
        norms = {"video": self.audio_to_video_norm, "audio": self.video_to_audio_norm}
        normed = {name: _normed(norm, x[name]) for name, norm in norms.items() if name in x}
        out = {}
        for kind, querying, other, attention in (
            ("a2v", "video", "audio", self.audio_to_video_attn),
            ("v2a", "audio", "video", self.video_to_audio_attn),
        ):
            if querying not in x:
                continue
            site = _AttentionSite(context, Site(layer, kind), seconds, querying)
            scaled = {name: _scaled(normed[name], modulation.cross[kind]) for name, modulation in modulations.items()}
            keys = KeyStream(other, QKV(None, *_keys(attention, scaled[other])) if other in x else None)
            out[querying] = _gated(
                x[querying], site.attend(attention, scaled[querying], keys), modulations[querying].cross_gate
            )
        return out


@dataclass(frozen=True)
class _AttentionSite:
    """Where a stream attends.

    Args:
        positions: of the streams that meet; none over the prompt.
        querying: the stream that has queries.
    """

    context: AttentionContext
    site: Site
    positions: Mapping[str, Tensor]
    querying: str

    def attend(self, attention: Any, x: Tensor, over: KeyStream | None = None) -> Tensor:
        """The output of an `LTX2Attention` for queries from `x` [b f s d] over another stream, or over `x`; zeros if
        the context gives none."""
        q = _by_head(attention.norm_q(attention.to_q(x)), attention.heads)
        streams: Meeting
        if over is None:
            streams = {self.querying: QKV(q, *_keys(attention, x))}
        else:
            streams = {} if over.keys is None else {over.name: over.keys}
            streams = {**streams, self.querying: QKV(q, q[:, :, :0], q[:, :, :0])}
        attended = self.context.attend(self.site, streams, self.positions).get(self.querying)
        if attended is None:
            return torch.zeros_like(x)
        heads = rearrange(attended, "b n (f s) k -> b f s n k", f=x.shape[1])
        if attention.to_gate_logits is not None:
            heads = heads * (2 * torch.sigmoid(attention.to_gate_logits(x))).unsqueeze(-1)
        out: Tensor = attention.to_out[0](rearrange(heads, "b f s n k -> b f s (n k)"))
        return out


def _keys(attention: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [b n l k] of an `LTX2Attention` over rows [b ... d]."""
    k = _by_head(attention.norm_k(attention.to_k(rows)), attention.heads)
    return k, _by_head(attention.to_v(rows), attention.heads)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """Rows [b ... (n k)] as [b n l k]."""
    return rearrange(x, "b ... (n k) -> b n (...) k", n=heads)


def _scaled(x: Tensor, by: Scaling) -> Tensor:
    shift, scale = by
    return plus_product(shift, x, scale, x.dtype)


def _gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    return plus_product(x, change, gate, x.dtype)


def _normed(norm: Any, x: Tensor) -> Tensor:
    """The output of diffusers' `RMSNorm`, in one kernel if it has no weight."""
    out: Tensor = functional.rms_norm(x, norm.dim, eps=norm.eps) if norm.weight is None else norm(x)
    return out
