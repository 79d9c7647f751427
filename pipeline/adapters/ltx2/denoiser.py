"""LTX-2 (Lightricks, arXiv 2601.03233) as a denoiser: diffusers' weights, our attention, picture and sound together.

Its layers are in `block.py`. Positions are seconds (and pixels) in float64; diffusers' frequencies span all heads, so
every head has its own.

Both forms are supported: 2.0, and 2.3 with gated attention and a prompt that is modulated by the noise level.

Shapes: b batch, f latent frames, c channels, h w latent height and width, p q patch, s tokens of a latent frame, l
tokens of a stream, d their width, m modulations, t text tokens, n heads, k head width, a axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import pi
from typing import Any

import torch
from diffusers import LTX2VideoTransformer3DModel
from einops import rearrange
from torch import Tensor, nn

from longtake.pipeline.adapters.ltx2.block import LTX2Block, LTX2Tokens
from longtake.pipeline.attention.kv_plan import SiteLayout, StreamLayout
from longtake.pipeline.attention.memory import PROMPTS, Latest
from longtake.pipeline.attention.rope import Rope
from longtake.pipeline.models.protocols import Block, Stream, Tokens

TIMESTEPS = 1000


@dataclass(frozen=True)
class _Half:
    """The embedding layers of one stream: projection and time, those of the exchange, and of the prompt."""

    enter: nn.Module
    time: nn.Module
    cross: nn.Module
    gate: nn.Module
    caption: nn.Module | None
    prompt: nn.Module | None


@dataclass(frozen=True)
class _Timed:
    """What noise levels make of one stream: see `LTX2Tokens`.

    Args:
        other: the noise levels of the other stream, which stay in memory as long as this, so that no other tensor has
            their identity.
    """

    condition: Tensor
    modulation: Tensor
    text_modulation: Tensor | None
    other: Tensor


class LTX2Denoiser(nn.Module):
    """An `LTX2VideoTransformer3DModel` as a `protocols.BlockDenoiser`.

    Args:
        transformer: its blocks become `LTX2Block`s.
        text_tokens: of a prompt.
        cross_timestep: whether the exchange is modulated by the noise level of the other stream, as LTX-2's pipelines
            do, or by that of its own.
    """

    def __init__(
        self, transformer: LTX2VideoTransformer3DModel, text_tokens: int = 1024, cross_timestep: bool = True
    ) -> None:
        super().__init__()
        self.ltx, self._text_tokens, self._cross_timestep = transformer, text_tokens, cross_timestep
        self.rope = ropes(transformer.config)
        self.blocks: list[Block] = [LTX2Block.of(block) for block in transformer.transformer_blocks]
        self._places = {"video": Latest[Tensor](), "audio": Latest[Tensor]()}
        self._timed = {name: Latest[_Timed]() for name in self._places}
        self._captions = {name: Latest[Tensor](PROMPTS) for name in self._places}

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """Latents, and prompt tokens `text` [b t (video audio)], to tokens."""
        video, audio, config = streams["video"], streams["audio"], self.ltx.config
        prompts = torch.split(text, text_widths(config), dim=-1)
        patches = rearrange(
            video.latents, "b f c (h p) (w q) -> b f (h w) (c p q)", p=config.patch_size, q=config.patch_size
        )
        return {
            "video": self._tokens("video", patches, video, audio, prompts[0]),
            "audio": self._tokens("audio", rearrange(audio.latents, "b f c -> b f 1 c"), audio, video, prompts[1]),
        }

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Tokens to velocities."""
        ltx, size, found = self.ltx, self.ltx.config.patch_size, {}
        if "video" in tokens:
            latents = streams["video"].latents
            rows = _leave(tokens["video"], ltx.scale_shift_table, ltx.norm_out, ltx.proj_out)
            pattern = "b f (h w) (c p q) -> b f c (h p) (w q)"
            found["video"] = rearrange(rows, pattern, h=latents.shape[-2] // size, p=size, q=size).to(latents)
        if "audio" in tokens:
            rows = _leave(tokens["audio"], ltx.audio_scale_shift_table, ltx.audio_norm_out, ltx.audio_proj_out)
            found["audio"] = rearrange(rows, "b f 1 c -> b f c").to(streams["audio"].latents)
        return found

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """The module's function `sites`, for this network."""
        return sites(self.ltx.config, (latent_height, latent_width), chunk_latents, chunk_audio, self._text_tokens)

    def _tokens(self, name: str, patches: Tensor, own: Stream, other: Stream, prompt: Tensor) -> LTX2Tokens:
        half, weight = self._half(name), self.ltx.proj_in.weight
        x = half.enter(patches.to(weight.device, weight.dtype))
        timed = self._timed[name].of(own.sigma, (id(other.sigma), x.dtype), lambda: self._time(half, own, other, x))
        caption = half.caption or nn.Identity()
        text = self._captions[name].of(prompt, (x.dtype, x.device), lambda: caption(prompt.to(x)))
        sides = tuple(own.latents.shape[-2:]) if name == "video" else ()
        return LTX2Tokens(
            x=x,
            condition=timed.condition,
            modulation=timed.modulation,
            positions=self._places[name].of(own.times_s, sides, lambda: self._positions(name, own)),
            text=text,
            text_modulation=timed.text_modulation,
        )

    def _time(self, half: _Half, own: Stream, other: Stream, x: Tensor) -> "_Timed":
        """What the noise levels make of a stream with tokens `x`: once per step, for all branches."""
        levels = own.host_sigma
        sigma = own.sigma[:, :1] if bool((levels == levels[:, :1]).all()) else own.sigma
        # The exchange knows one level of the other stream: that of the step, which given latents are below.
        crossing = other.sigma.amax(dim=1, keepdim=True).expand_as(sigma) if self._cross_timestep else sigma
        gated = crossing * (self.ltx.config.cross_attn_timestep_scale_multiplier / self._time_scale)
        modulation, condition = _timed(half.time, sigma, x)
        parts = [modulation, _timed(half.cross, crossing, x)[0], _timed(half.gate, gated, x)[0]]
        prompt = (
            None if half.prompt is None else _timed(half.prompt, own.sigma.amax(dim=1, keepdim=True), x)[0][:, :, 0]
        )
        modulation = rearrange(torch.cat(parts, dim=-1), "b f 1 (m d) -> b f 1 m d", d=x.shape[-1])
        return _Timed(condition, modulation, prompt, other.sigma)

    @property
    def _time_scale(self) -> int:
        return int(self.ltx.config.timestep_scale_multiplier)

    def _half(self, name: str) -> _Half:
        ltx, audio = self.ltx, "audio_" if name == "audio" else ""
        gate = "v2a" if name == "audio" else "a2v"

        def optional(layer: str) -> nn.Module | None:
            return getattr(ltx, f"{audio}{layer}", None)

        return _Half(
            getattr(ltx, f"{audio}proj_in"),
            getattr(ltx, f"{audio}time_embed"),
            getattr(ltx, f"av_cross_attn_{name}_scale_shift"),
            getattr(ltx, f"av_cross_attn_{name}_{gate}_gate"),
            optional("caption_projection"),
            optional("prompt_adaln"),
        )

    def _positions(self, name: str, stream: Stream) -> Tensor:
        """Seconds, and for the picture pixels, in the middle of each token: float64 [f s a]."""
        times_s, config = stream.times_s.to(torch.float64), self.ltx.config
        if name == "audio":
            return rearrange(_heard(times_s, config), "f -> f 1 1")
        size, (_, down, across) = config.patch_size, config.vae_scale_factors
        sides = zip(stream.latents.shape[-2:], (down, across), strict=True)
        exact: dict[str, Any] = {"dtype": torch.float64, "device": times_s.device}
        lines = [(torch.arange(0, side, size, **exact) + size / 2) * scale for side, scale in sides]
        return rearrange(torch.cartesian_prod(times_s, *lines), "(f s) a -> f s a", f=len(times_s))


def _is_modulated(config: Mapping[str, Any]) -> bool:
    """Whether the noise level changes how the blocks read a prompt, as in 2.3."""
    modulated = config.get("cross_attn_mod") or config.get("audio_cross_attn_mod")
    return bool(modulated and config.get("use_prompt_adaln_single", True))


def _heard(times_s: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Times [f] of audio latents, of which a film's first holds one mel frame where the others hold several, so that
    half of it would lie before the beginning."""
    mel_s = config["audio_hop_length"] / config["audio_sampling_rate"]
    reach = config["audio_scale_factor"] / 2 * mel_s
    middle: Tensor = ((times_s - reach).clamp(min=0) + times_s + reach) / 2
    return middle


def _timed(layer: nn.Module, sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Modulations and embedding [b f 1 d] of noise levels [b f]."""
    steps = (TIMESTEPS * sigma).flatten().to(like.device)
    modulation, embedding = layer(steps, hidden_dtype=like.dtype)
    return _per_frame(modulation, sigma), _per_frame(embedding, sigma)


def _per_frame(x: Tensor, sigma: Tensor) -> Tensor:
    return rearrange(x, "(b f) d -> b f 1 d", f=sigma.shape[1])


def _leave(tokens: Tokens, table: Tensor, norm: nn.Module, leave: nn.Module) -> Tensor:
    shift, scale = (table + tokens.condition.unsqueeze(-2)).unbind(dim=-2)
    out: Tensor = leave((norm(tokens.x) * (1 + scale) + shift).type_as(tokens.x))
    return out


def text_widths(config: Mapping[str, Any]) -> list[int]:
    """Widths of a prompt token as the two streams read it, side by side."""
    if config["use_prompt_embeddings"]:
        return [config["caption_channels"]] * 2
    return [config["cross_attention_dim"], config["audio_cross_attention_dim"]]


def ropes(config: Mapping[str, Any]) -> dict[str, Rope]:
    """The rotations by kind of site: seconds and pixels for the picture, seconds for the sound and the exchange.

    diffusers rotates tokens by their distance from the middle of a clip; only differences count, so ours start at 0.
    """
    video_s, audio_s = config["pos_embed_max_pos"], config["audio_pos_embed_max_pos"]
    space = (config["base_height"], config["base_width"])
    heads, sound_heads = config["num_attention_heads"], config["audio_num_attention_heads"]
    theta = config["rope_theta"]
    interleaved = config["rope_type"] == "interleaved"
    video = _rope(heads, config["attention_head_dim"], theta, (video_s, *space), interleaved)
    audio = _rope(sound_heads, config["audio_attention_head_dim"], theta, (audio_s,), interleaved)
    cross = _rope(sound_heads, config["audio_attention_head_dim"], theta, (max(video_s, audio_s),), interleaved)
    kinds = {"video": ("video_self", "video_text"), "audio": ("audio_self", "audio_text"), "cross": ("a2v", "v2a")}
    found = {"video": video, "audio": audio, "cross": cross}
    return {kind: found[name] for name, some in kinds.items() for kind in some}


def _rope(heads: int, head_dim: int, theta: float, extents: tuple[int, ...], interleaved: bool) -> Rope:
    """Frequencies in geometric steps over the channels of all heads, one axis after another at each of them; what is
    left of the channels, at the front, is not turned."""
    axes, pairs = len(extents), heads * head_dim // 2
    steps = torch.linspace(0, 1, pairs // axes, dtype=torch.float64)
    per_extent = (theta**steps * pi / 2).float().double()  # as diffusers rounds them
    rates = 2 * per_extent.unsqueeze(1) / torch.tensor(extents, dtype=torch.float64)
    still = pairs - rates.numel()
    frequencies = torch.cat((torch.zeros(still, dtype=torch.float64), rates.flatten()))
    order = torch.cat((torch.zeros(still, dtype=torch.long), torch.arange(axes).repeat(len(steps))))
    per_head = rearrange(torch.stack((frequencies, order.double())), "two (n pair) -> two n pair", n=heads)
    return Rope(per_head[0], per_head[1].long(), axes, interleaved)


def sites(
    config: Mapping[str, Any], size: tuple[int, int], chunk_latents: int, chunk_audio: int, text_tokens: int
) -> list[SiteLayout]:
    """Per layer, six sites: each stream over itself and over its prompt, and each over the other.

    Args:
        config: of an `LTX2VideoTransformer3DModel`.
        size: latent height and width.
        chunk_latents, chunk_audio: the most latents of a chunk.
        text_tokens: of a prompt.
    """
    patch = config["patch_size"]
    frame_tokens = (size[0] // patch) * (size[1] // patch)
    video = StreamLayout("video", chunk_latents * frame_tokens, frame_tokens=frame_tokens)
    audio, text = (
        StreamLayout("audio", chunk_audio),
        StreamLayout("text", text_tokens, kept=False, constant=not _is_modulated(config)),
    )
    querying = {name: StreamLayout(name, 0, kept=False) for name in ("video", "audio")}
    querying["video"] = replace(querying["video"], frame_tokens=frame_tokens)
    picture = (config["num_layers"], config["num_attention_heads"], config["attention_head_dim"])
    sound = (config["num_layers"], config["audio_num_attention_heads"], config["audio_attention_head_dim"])
    return [
        SiteLayout("video_self", *picture, (video,)),
        SiteLayout("audio_self", *sound, (audio,)),
        SiteLayout("video_text", *picture, (querying["video"], text)),
        SiteLayout("audio_text", *sound, (querying["audio"], text)),
        SiteLayout("a2v", *sound, (querying["video"], audio)),
        SiteLayout("v2a", *sound, (video, querying["audio"])),
    ]
