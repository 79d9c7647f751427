"""One layer of Wan.

The weights are diffusers' block; the forward pass is ours. It computes what diffusers' does, hands queries, keys and
values to the context of the pass, and starts fewer kernels.

Shapes: b batch, f latent frames, s tokens of a latent frame, l tokens of a pass, d their width, t text tokens, i image
tokens, n heads, k head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from longtake.pipeline.attention.context import QKV, AttentionContext, Meeting, PromptKV, Site
from longtake.pipeline.attention.fused import plus_product
from longtake.pipeline.models.protocols import Tokens

SCALES = slice(1, None, 3)
"""Which of a block's modulations are scales: of shift, scale and gate, twice, the second and the fifth."""


@dataclass(frozen=True)
class WanTokens(Tokens):
    """The video inside the blocks, with what they read in addition.

    Args:
        text: prompt tokens [b t d].
        image: tokens of the image that is continued [b i d]; None if the blocks read none.
        expert: which transformer of several runs this pass.
    """

    text: Tensor
    image: Tensor | None = None
    expert: int = 0


class WanBlock(WanTransformerBlock):  # type: ignore[misc]  # diffusers has no types
    """One of diffusers' blocks over tokens whose attention is the context's business. All layers are called as modules,
    so that LoRAs, 8-bit weights and offloading work as anywhere."""

    @classmethod
    def of(cls, block: Any) -> "WanBlock":
        """The block itself, with the forward pass of this class."""
        block.__class__ = cls
        own: WanBlock = block
        return own

    @override
    def forward(self, tokens: Mapping[str, Tokens], context: AttentionContext, layer: int) -> dict[str, Tokens]:
        """The stream after this layer, attending over the film, then over the prompt and the image."""
        video = tokens["video"]
        assert isinstance(video, WanTokens)
        x = video.x
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self._modulation(video.modulation)
        normed = plus_product(shift, self.norm1(x.float()), scale, x.dtype)
        x = plus_product(x, self._film(normed, video.positions, context, layer), gate, x.dtype)
        x = x + self._read(self.norm2(x.float()).type_as(x), self.prompts(tokens), context, layer)
        normed = plus_product(mlp_shift, self.norm3(x.float()), mlp_scale, x.dtype)
        x = plus_product(x, self.ffn(normed), mlp_gate, x.dtype)
        return {"video": replace(video, x=x)}

    def prompts(self, tokens: Mapping[str, Tokens]) -> dict[str, PromptKV]:
        """Keys and values of the prompt, and of the image if there is one, by kind of site."""
        video, attention = tokens["video"], self.attn2
        assert isinstance(video, WanTokens)

        def over(source: Tensor, to_k: nn.Module, norm_k: nn.Module, to_v: nn.Module) -> PromptKV:
            def make() -> tuple[Tensor, Tensor]:
                v = rearrange(to_v(source), "b t (n k) -> b n t k", n=attention.heads)
                return _halves(attention, norm_k(to_k(source))), v

            return PromptKV(source, attention, make)

        found = {"video_text": over(video.text, attention.to_k, attention.norm_k, attention.to_v)}
        if video.image is not None:
            added = (attention.add_k_proj, attention.norm_added_k, attention.add_v_proj)
            found["video_image"] = over(video.image, *added)
        return found

    def _modulation(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate, twice, each [b f 1 d]; scales are counted from 0."""
        table: Tensor = self.scale_shift_table
        own = table.to(torch.promote_types(table.dtype, torch.float32)) + modulation
        own[..., SCALES, :].add_(1)
        return own.unbind(dim=-2)

    def _film(self, x: Tensor, positions: Tensor, context: AttentionContext, layer: int) -> Tensor:
        """Attended tokens [b f s d] over the film."""
        attention: Any = self.attn1
        q, k = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(x))
        qkv = QKV(*(rearrange(y, "b f s (n k) -> b n (f s) k", n=attention.heads) for y in (q, k, attention.to_v(x))))
        places = {"video": rearrange(positions, "f s a -> (f s) a")}
        return _left(attention, context.attend(Site(layer, "video_self"), {"video": qkv}, places)["video"], x)

    def _read(self, x: Tensor, prompts: Mapping[str, PromptKV], context: AttentionContext, layer: int) -> Tensor:
        """Attended tokens [b f s d] over the prompt, and over the image if there is one."""
        attention: Any = self.attn2
        q = _halves(attention, rearrange(attention.norm_q(attention.to_q(x)), "b f s d -> b (f s) d"))
        asking = QKV(q, q[:, :, :0], q[:, :, :0])

        def over(kind: str, prompt: PromptKV) -> Tensor:
            streams: Meeting = {"video": asking, kind.removeprefix("video_"): prompt}
            return context.attend(Site(layer, kind), streams, {})["video"]

        first, *others = (over(kind, prompt) for kind, prompt in prompts.items())
        return _left(attention, sum(others, first), x)


def _halves(attention: Any, x: Tensor) -> Tensor:
    """Tokens [b l d] by head, channels in the order that a rotation leaves, which decides the last bit of sums."""
    rows = rearrange(x, "b l (n half two) -> b l n (two half)", n=attention.heads, two=2)
    return rearrange(rows, "b l n k -> b n l k")


def _left(attention: Any, attended: Tensor, x: Tensor) -> Tensor:
    """The output of an attention, shaped like its input `x` [b f s d], from what its heads attended [b n l k]."""
    out: Tensor = attention.to_out[0](rearrange(attended, "b n (f s) k -> b f s (n k)", f=x.shape[1]))
    return out
