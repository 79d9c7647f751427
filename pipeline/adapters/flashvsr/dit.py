"""FlashVSR's diffusion transformer: Wan 2.1 (arXiv 2503.20314) under the names of its first release, in one step.

Tokens stay in the order of their attention windows; all other layers act on each token alone. Positions are computed
in float64, so films can have any length (the published table ends after 1,024 latents, 2:51 at 24 fps).

The keys and values are plain tensors here, not pages of `pipeline/attention/kv_store.py`. That store keeps the pages of
chunks and hands whole pages to a kernel; this transformer needs all its keys in one tensor, in window order, because
`attention.py` of this folder chooses the visible windows from their mean keys. A concatenation of three units is all
that a pass keeps, one process upscales a scene alone, and there are no sinks, branches or ranks, so the store's
transactions, positions and exchanges have no use here.

Shapes: b batch, c channels, f latent frames, h w token rows and columns, p q patch, d width, n heads, k head width,
l tokens of a pass, m modulations, t text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.adapters.flashvsr.attention import UNIT_LATENTS, WINDOW, Attend, from_windows, to_windows
from longtake.pipeline.attention.rope import Rope, Rotation

THETA = 10_000.0
TIMESTEP = 1000
PATCH = 2
EPS = 1e-6


@dataclass(frozen=True)
class DiTSizes:
    """Sizes of the transformer; the defaults are the published ones."""

    width: int = 1536
    ffn_width: int = 8960
    layers: int = 30
    heads: int = 12
    latent_channels: int = 16
    text_width: int = 4096
    text_tokens: int = 512
    sinusoid_width: int = 256


class KV(NamedTuple):
    """Rotated keys and values [b n l k] of one layer."""

    k: Tensor
    v: Tensor


class Constants(NamedTuple):
    """The inputs that are the same in every pass: the noise level for the blocks and the head, the prompt's keys."""

    modulation: Tensor
    condition: Tensor
    prompt: tuple[KV, ...]


class StreamingDiT(nn.Module):
    """The velocity of a chunk of latents that sees itself and the `kv_units` units of two latents before it."""

    def __init__(self, sizes: DiTSizes, attend: Attend, kv_units: int) -> None:
        super().__init__()
        width = sizes.width
        self._sizes, self._attend, self._kv_units = sizes, attend, kv_units
        patch = (1, PATCH, PATCH)
        self.patch_embedding = nn.Conv3d(sizes.latent_channels, width, patch, patch)
        self.text_embedding = _mlp(sizes.text_width, width, nn.GELU(approximate="tanh"))
        self.time_embedding = _mlp(sizes.sinusoid_width, width, nn.SiLU())
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.head = Head(width, sizes.latent_channels)

    def constants(self, prompt: Tensor) -> Constants:
        """The constants for prompt tokens [1 t c] of Wan's text encoder, computed once per stream."""
        half = self._sizes.sinusoid_width // 2
        angles = TIMESTEP * THETA ** (-torch.arange(half, dtype=torch.float64) / half)
        sinusoid = torch.cat((angles.cos(), angles.sin())).to(prompt)
        condition = self.time_embedding(sinusoid.unsqueeze(0))
        modulation = rearrange(self.time_projection(condition), "b (m d) -> b m d", m=6)
        text = self.text_embedding(prompt)
        return Constants(
            modulation, condition, tuple(cast(Block, block).cross_attn.keys(text) for block in self.blocks)
        )

    def forward(
        self, latents: Tensor, added: Tensor, first_latent: int, constants: Constants, past: Sequence[KV]
    ) -> tuple[Tensor, list[KV]]:
        """The velocity [f c h*2 w*2] of `latents`, and the keys and values that the next chunk sees.

        Args:
            latents: [f c h*2 w*2], f a multiple of 2, h and w of 8.
            added: the projector's tokens [f h w d].
            first_latent: number of the first latent of the chunk in its film.
            constants: see `constants`.
            past: per layer, as the chunk before returned it; empty for the first chunk.
        """
        patches = self.patch_embedding(rearrange(latents, "f c h w -> 1 c f h w"))
        tokens = rearrange(patches, "1 d f h w -> f h w d") + added
        grid = (tokens.shape[1] // WINDOW, tokens.shape[2] // WINDOW)
        here = AttendArgs(self._rotation(tokens, first_latent), self._attend, grid)
        x, kept = to_windows(tokens).unsqueeze(0), []
        unit = UNIT_LATENTS * tokens.shape[1] * tokens.shape[2]
        for layer, block in enumerate(self.blocks):
            x, seen = block(x, here, constants.modulation, constants.prompt[layer], past[layer] if past else None)
            kept.append(KV(*(y[:, :, -self._kv_units * unit :].clone() for y in seen)))
        rows = from_windows(self.head(x, constants.condition).squeeze(0), grid)
        return rearrange(rows, "f h w (p q c) -> f c (h p) (w q)", p=PATCH, q=PATCH), kept

    def _rotation(self, tokens: Tensor, first_latent: int) -> Rotation:
        starts = (first_latent, 0, 0)
        lines = (torch.arange(a, a + n, dtype=torch.float64) for a, n in zip(starts, tokens.shape[:3], strict=True))
        positions = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
        return _rope(self._sizes.width // self._sizes.heads).rotation(to_windows(positions))


@dataclass(frozen=True)
class AttendArgs:
    """The positions of a pass's tokens in film and picture, and how they attend."""

    rotation: Rotation
    attend: Attend
    grid: tuple[int, int]


class Block(nn.Module):
    """Attention over the film, then over the prompt, then a feed-forward network."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        width = sizes.width
        self.self_attn = SelfAttention(width, sizes.heads)
        self.cross_attn = PromptAttention(width, sizes.heads)
        self.norm1 = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(width, EPS)
        self.ffn = _mlp(width, width, nn.GELU(approximate="tanh"), sizes.ffn_width)
        self.modulation = _modulation(6, width)

    def forward(
        self, x: Tensor, here: AttendArgs, modulation: Tensor, prompt: KV, past: KV | None
    ) -> tuple[Tensor, KV]:
        """Tokens [b l d] after this layer, and all keys and values that they saw, the oldest first."""
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (self.modulation + modulation).chunk(6, dim=1)
        attended, seen = self.self_attn(self.norm1(x) * (1 + scale) + shift, here, past)
        x = x + gate * attended
        x = x + self.cross_attn(self.norm3(x), prompt)
        return x + gate_ffn * self.ffn(self.norm2(x) * (1 + scale_ffn) + shift_ffn), seen


class _Projections(nn.Module):
    """Queries, keys and values of `heads` heads, under the published names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(width, EPS) for _ in range(2))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (n k) -> b n l k", n=self._heads)

    def _merge(self, x: Tensor) -> Tensor:
        merged: Tensor = self.o(rearrange(x, "b n l k -> b l (n k)"))
        return merged


class SelfAttention(_Projections):
    """Attention over the tokens of the chunk and of the chunks before it."""

    def forward(self, x: Tensor, here: AttendArgs, past: KV | None) -> tuple[Tensor, KV]:
        """Attended tokens [b l d], and all keys and values seen."""
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(x))
        # Wan rotates channel 2i together with 2i + 1, and Rope channel i with i + k/2.
        q, k = (rearrange(y, "b l (n half two) -> b n l (two half)", n=self._heads, two=2) for y in (q, k))
        seen = KV(here.rotation(k), self._split(self.v(x)))
        if past is not None:
            seen = KV(*(torch.cat(pair, dim=2) for pair in zip(past, seen, strict=True)))
        return self._merge(here.attend(here.rotation(q), seen.k, seen.v, here.grid)), seen


class PromptAttention(_Projections):
    """Attention over the prompt, whose keys are computed once."""

    def keys(self, text: Tensor) -> KV:
        """Keys and values of embedded prompt tokens [b t d]."""
        return KV(self._split(self.norm_k(self.k(text))), self._split(self.v(text)))

    def forward(self, x: Tensor, prompt: KV) -> Tensor:
        """Attended tokens [b l d]."""
        return self._merge(functional.scaled_dot_product_attention(self._split(self.norm_q(self.q(x))), *prompt))


class Head(nn.Module):
    """Tokens to patches of velocity."""

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.head = nn.Linear(width, PATCH**2 * latent_channels)
        self.modulation = _modulation(2, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Patches [b l p*q*c] for tokens [b l d] at the noise level `condition` [b d]."""
        shift, scale = (self.modulation + condition.unsqueeze(1)).chunk(2, dim=1)
        patches: Tensor = self.head(self.norm(x) * (1 + scale) + shift)
        return patches


def _mlp(given: int, width: int, activation: nn.Module, hidden: int | None = None) -> nn.Sequential:
    hidden = hidden or width
    return nn.Sequential(nn.Linear(given, hidden), activation, nn.Linear(hidden, width))


def _rope(head_dim: int) -> Rope:
    """Wan's: a third of the head's channels for each axis, what remains for time, in latent frames and patches."""
    space = head_dim // 3
    widths = (head_dim - 2 * space, space, space)
    return Rope.of_axes([[THETA ** (-channel / width) for channel in range(0, width, 2)] for width in widths])


def _modulation(parts: int, width: int) -> nn.Parameter:
    """Random shifts and scales, on the CPU also where only shapes are asked for: arithmetic on the meta device imports
    the compiler, for 2 s."""
    return nn.Parameter(torch.randn(1, parts, width, device="cpu") / width**0.5)
