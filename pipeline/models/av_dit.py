"""A joint audio-video diffusion transformer: two streams with weights of their own, one attention over both.

Each block takes both streams, makes queries, keys and values with the stream's own weights, attends once over
everything that is visible (both streams and the text), and returns to the streams. The context decides what is
visible, and whether keys come from a cache. Sources: joint attention as in MM-DiT (Esser et al.,
arXiv 2403.03206), a shared adaLN table as in PixArt-alpha (Chen et al., arXiv 2310.00426) with each layer's low-rank
part as in Cosmos (arXiv 2501.03575), a noise level per latent frame as in Diffusion Forcing (Chen et al.,
arXiv 2407.01392). Both streams are placed in time by seconds; patches also carry their place in the picture, so that
what is attended to can tell where it was.

Shapes: b batch, f latent frames, c channels, h w latent height and width, p patch, s tokens of one latent frame,
l = f s tokens of a stream, d its width, t text tokens, e their width, n attention heads, k head width,
a axes of position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import log, tau

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.attention.context import QKV, AttentionContext, Meeting, PromptKV, Site
from longtake.pipeline.attention.fused import plus_product
from longtake.pipeline.attention.kv_plan import SiteLayout, StreamLayout
from longtake.pipeline.attention.memory import Latest
from longtake.pipeline.attention.rope import Rope, geometric
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.protocols import Stream, Tokens

SIGMA_FREQUENCIES = 64
PLACE_FREQUENCIES = 4


@dataclass(frozen=True)
class AVDiTConfig:
    """Sizes of an `AVDiT`; the head width is divided among time, height and width as 2 : 1 : 1.

    Args:
        pooled_text: whether blocks are steered by the mean of the prompt's tokens, instead of each word at its place:
            for grammars with optional words.
        preconditioned: whether the network's output is what the best linear guess of the velocity lacks, at unit
            variance (Karras et al., EDM, arXiv 2206.00364). At high noise levels it is then the clean latents, and a
            token need not carry the noise of its patch, which may be larger than its width.
    """

    video_channels: int = 12
    audio_channels: int = 48
    video_width: int = 192
    audio_width: int = 128
    text_width: int = 128
    text_tokens: int = 16
    num_heads: int = 4
    head_dim: int = 48
    num_layers: int = 6
    patch: int = 2
    mlp_ratio: int = 4
    modulation_rank: int = 24
    pooled_text: bool = False
    preconditioned: bool = False

    def __post_init__(self) -> None:
        if self.head_dim % 8:
            raise SpecError(f"head_dim is {self.head_dim}; use a multiple of 8, which shares out to three axes")

    @property
    def attention_width(self) -> int:
        """Width of queries, keys and values: all heads together."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class AVTokens(Tokens):
    """One stream inside the blocks, with the prompt that they read.

    Args:
        text: prompt tokens [b t e], the same for both streams.
    """

    text: Tensor


class AVDiT(nn.Module):
    """Predicts the velocity of video and audio latents together; a `protocols.BlockDenoiser`."""

    def __init__(self, config: AVDiTConfig) -> None:
        super().__init__()
        self.config = config
        # Periods from 0.2 s, two audio latents apart at 20 a second, to a minute; from 4 patches to 64.
        quarter = config.head_dim // 2 // 4
        time = geometric(fastest=tau / 0.2, slowest=tau / 60, count=2 * quarter)
        space = geometric(fastest=tau / 4, slowest=tau / 64, count=quarter)
        self.rope = Rope.of_axes([time, space, space])
        video_size = config.video_channels * config.patch**2
        self.embeds = nn.ModuleDict(
            {
                "video": StreamEmbed(video_size, config.video_width, config),
                "audio": StreamEmbed(config.audio_channels, config.audio_width, config),
            }
        )
        self.places = _zeroed(nn.Linear(4 * PLACE_FREQUENCIES, config.video_width, bias=False))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self._positions = {"video": Latest[Tensor](), "audio": Latest[Tensor]()}
        self._waves: Latest[Tensor] = Latest()
        self.heads = nn.ModuleDict(
            {
                "video": StreamHead(config.video_width, video_size),
                "audio": StreamHead(config.audio_width, config.audio_channels),
            }
        )

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """Latents to tokens: a patch of one video latent frame, or one audio latent, becomes one token."""
        tokens: dict[str, Tokens] = {
            name: self.embeds[name](*self._flatten(name, stream), text) for name, stream in streams.items()
        }
        if "video" in tokens:
            *_, h, w = streams["video"].latents.shape
            x, sides = tokens["video"].x, (h // self.config.patch, w // self.config.patch)
            waves = self._waves.of(self.places.weight, (sides, x.dtype, x.device), lambda: place_waves(*sides).to(x))
            tokens["video"] = replace(tokens["video"], x=x + self.places(waves))
        return tokens

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Tokens to velocities."""
        out = {name: self.heads[name](stream) for name, stream in tokens.items()}
        if "video" in out:
            _, _, _, h, w = streams["video"].latents.shape
            p = self.config.patch
            pattern = "b f (h w) (c p q) -> b f c (h p) (w q)"
            out["video"] = rearrange(out["video"], pattern, h=h // p, w=w // p, p=p, q=p)
        if "audio" in out:
            out["audio"] = rearrange(out["audio"], "b f 1 c -> b f c")
        return _from_residuals(out, streams) if self.config.preconditioned else out

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """One joint site per layer, with space for chunks of that many latents."""
        config = self.config
        frame_tokens = (latent_height // config.patch) * (latent_width // config.patch)
        streams = (
            StreamLayout("video", chunk_latents * frame_tokens, frame_tokens=frame_tokens),
            StreamLayout("audio", chunk_audio),
            StreamLayout("text", config.text_tokens, kept=False),
        )
        return [SiteLayout("joint", config.num_layers, config.num_heads, config.head_dim, streams)]

    def _flatten(self, name: str, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of latents [b f s c], the noise level of each latent frame [b f], and the rows' positions [f s 3]."""
        latents, p = stream.latents.to(self.places.weight.dtype), self.config.patch
        sides = () if name == "audio" else tuple(size // p for size in latents.shape[-2:])
        positions = self._positions[name].of(stream.times_s, sides, lambda: _placed(stream.times_s, sides))
        if name == "audio":
            return rearrange(latents, "b f c -> b f 1 c"), stream.sigma, positions
        return rearrange(latents, "b f c (h p) (w q) -> b f (h w) (c p q)", p=p, q=p), stream.sigma, positions


class StreamEmbed(nn.Module):
    """One stream's way in: rows of latents to tokens, noise level and prompt to the condition that steers every block.

    The prompt always has `text_tokens` tokens, padding included. It comes in whole, each word at its place, or pooled.
    """

    def __init__(self, in_size: int, width: int, config: AVDiTConfig) -> None:
        super().__init__()
        self.rows = nn.Linear(in_size, width)
        self.sigma = nn.Sequential(nn.Linear(2 * SIGMA_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self._pooled = config.pooled_text
        self.text = nn.Linear(config.text_width * (1 if self._pooled else config.text_tokens), width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, rows: Tensor, sigma: Tensor, positions: Tensor, text: Tensor) -> AVTokens:
        """Tokens of rows [b f s c] at noise levels [b f] and positions [f s 3], steered by text [b t e]."""
        noise_level = rearrange(self.sigma(sinusoids(sigma).to(rows.dtype)), "b f d -> b f 1 d")
        words = reduce(text, "b t e -> b 1 1 e", "mean") if self._pooled else rearrange(text, "b t e -> b 1 1 (t e)")
        condition = noise_level + self.text(words)
        modulation = rearrange(self.modulation(functional.silu(condition)), "b f 1 (six d) -> b f 1 six d", six=6)
        return AVTokens(self.rows(rows), condition, modulation, positions, text)


class Block(nn.Module):
    """One layer: every stream's own weights around one joint attention."""

    def __init__(self, config: AVDiTConfig) -> None:
        super().__init__()
        self.video = StreamBlock(config.video_width, config)
        self.audio = StreamBlock(config.audio_width, config)
        self.text = TextKeys(config)

    def forward(self, tokens: Mapping[str, Tokens], context: AttentionContext, layer: int) -> dict[str, Tokens]:
        """Both streams after this layer."""
        own = {"video": self.video, "audio": self.audio}
        modulations = {name: own[name].modulation(stream) for name, stream in tokens.items()}
        qkv = {name: own[name].qkv(stream, modulations[name]) for name, stream in tokens.items()}
        positions = {name: rearrange(stream.positions, "f s a -> (f s) a") for name, stream in tokens.items()}
        streams: Meeting = {**qkv, "text": self.prompts(tokens)["joint"]}
        attended = context.attend(Site(layer, "joint"), streams, positions)
        return {name: own[name].update(stream, modulations[name], attended[name]) for name, stream in tokens.items()}

    def prompts(self, tokens: Mapping[str, Tokens]) -> dict[str, PromptKV]:
        """Keys and values of the prompt, at the only kind of site."""
        first = next(iter(tokens.values()))
        assert isinstance(first, AVTokens)
        return {"joint": PromptKV(first.text, self.text, partial(self.text, first.text))}


class StreamBlock(nn.Module):
    """One stream's weights in one block: adaLN, queries keys and values with QK norm, output, MLP."""

    def __init__(self, width: int, config: AVDiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.table = nn.Parameter(torch.zeros(6, width))
        self.own_modulation = nn.Sequential(
            nn.SiLU(),
            nn.Linear(width, config.modulation_rank, bias=False),
            _zeroed(nn.Linear(config.modulation_rank, 6 * width, bias=False)),
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_qkv = nn.Linear(width, 3 * config.attention_width)
        self.q_norm = HeadNorm(config.head_dim)
        self.k_norm = HeadNorm(config.head_dim)
        self.out = nn.Linear(config.attention_width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_ratio * width, width),
        )

    def modulation(self, tokens: Tokens) -> "Modulation":
        """This block's shift, scale and gate around attention, and again around the MLP, each [b f 1 d]."""
        own: Tensor = rearrange(self.own_modulation(tokens.condition), "b f s (six d) -> b f s six d", six=6)
        return (tokens.modulation + own + self.table.to(tokens.modulation.dtype)).unbind(dim=-2)

    def qkv(self, tokens: Tokens, modulation: "Modulation") -> QKV:
        """Queries, keys and values [b n l k] before rotation."""
        shift, scale, *_ = modulation
        normed = plus_product(shift, self.norm(tokens.x), 1 + scale, tokens.x.dtype)
        q, k, v = rearrange(self.to_qkv(normed), "b f s (three n k) -> three b n (f s) k", three=3, n=self.num_heads)
        return QKV(self.q_norm(q), self.k_norm(k), v)

    def update(self, tokens: Tokens, modulation: "Modulation", attended: Tensor) -> Tokens:
        """The stream after attention [b n l k] and MLP."""
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x = tokens.x
        out = self.out(rearrange(attended, "b n (f s) k -> b f s (n k)", f=x.shape[1]))
        x = plus_product(x, out, gate, x.dtype)
        normed = plus_product(mlp_shift, self.norm(x), 1 + mlp_scale, x.dtype)
        return replace(tokens, x=plus_product(x, self.mlp(normed), mlp_gate, x.dtype))


Modulation = tuple[Tensor, ...]


class HeadNorm(nn.RMSNorm):
    """RMS norm over a head's width whose weight follows its input's dtype, as the fused kernel wants it."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.normalized_shape, None, self.eps) * self.weight.to(x.dtype)


class TextKeys(nn.Module):
    """The prompt as further keys and values of the joint attention, without queries."""

    def __init__(self, config: AVDiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.to_kv = nn.Linear(config.text_width, 2 * config.attention_width)
        self.k_norm = HeadNorm(config.head_dim)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [b n t k] of prompt tokens [b t e]."""
        k, v = rearrange(self.to_kv(text), "b t (two n k) -> two b n t k", two=2, n=self.num_heads)
        return self.k_norm(k), v


class StreamHead(nn.Module):
    """One stream's way out: tokens to velocities."""

    def __init__(self, width: int, out_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.table = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, out_size)

    def forward(self, tokens: Tokens) -> Tensor:
        """Velocities [b f s c]."""
        shift, scale = (self.table + tokens.condition.unsqueeze(-2)).unbind(dim=-2)
        velocity: Tensor = self.out(self.norm(tokens.x) * (1 + scale) + shift)
        return velocity


def sinusoids(sigma: Tensor) -> Tensor:
    """Cosines and sines of noise levels [b f] in 0..1 -> [b f 2*SIGMA_FREQUENCIES] (Vaswani et al., 1706.03762)."""
    steps = torch.arange(SIGMA_FREQUENCIES, dtype=sigma.dtype, device=sigma.device)
    frequencies = torch.exp(-log(10_000) / SIGMA_FREQUENCIES * steps)
    angles = 1000 * sigma.unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _placed(times_s: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Positions float64 [f s 3] at these times, of a grid of tokens or of one token without a place."""
    times_s = times_s.to(torch.float64)
    if not sides:
        zeros = torch.zeros_like(times_s)
        return rearrange([times_s, zeros, zeros], "a f -> f 1 a")
    lines = (torch.arange(size, dtype=torch.float64, device=times_s.device) for size in sides)
    return rearrange(torch.cartesian_prod(times_s, *lines), "(f s) a -> f s a", f=len(times_s))


def place_waves(rows: int, columns: int) -> Tensor:
    """Cosines and sines of each patch's place [s 4*PLACE_FREQUENCIES], the picture's height and width being half a
    period of the slowest wave, and each further wave twice as fast."""
    axes = []
    for count in (rows, columns):
        half_turns = torch.outer((torch.arange(count) + 0.5) / count, torch.pi * 2.0 ** torch.arange(PLACE_FREQUENCIES))
        axes.append(torch.cat((half_turns.cos(), half_turns.sin()), dim=1))
    down, across = axes
    return torch.cat((down.repeat_interleave(columns, dim=0), across.repeat(rows, 1)), dim=1)


def _from_residuals(residuals: Mapping[str, Tensor], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
    """Velocities of streams, for latents and noise of unit variance."""
    velocities = {}
    for name, residual in residuals.items():
        latents, sigma = streams[name].latents, streams[name].sigma
        sigma = sigma.reshape(*sigma.shape, *[1] * (latents.ndim - 2)).to(residual.dtype)
        variance = (1 - sigma) ** 2 + sigma**2
        velocities[name] = (2 * sigma - 1) / variance * latents.to(residual.dtype) - residual / variance.sqrt()
    return velocities


def _zeroed(linear: nn.Linear) -> nn.Linear:
    """The layer, with zero weights, so that its output is 0 until it is trained."""
    nn.init.zeros_(linear.weight)
    return linear
