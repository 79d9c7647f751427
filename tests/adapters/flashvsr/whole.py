"""FlashVSR over a whole film at once, written another way: what the stream is held against."""

import re

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from einops import rearrange
from torch.nn import functional

from longtake.pipeline.adapters.flashvsr.dit import StreamingDiT
from longtake.pipeline.adapters.flashvsr.model import FlashVSR, enlarged
from longtake.pipeline.adapters.flashvsr.projector import Projector
from longtake.pipeline.sampling.noise import KeyedNoise
from tests.adapters.flashvsr.tiny import DIT

FIRST_UNITS, KV_UNITS = 3, 3


def projected_at_once(projector: Projector, frames: torch.Tensor) -> torch.Tensor:
    """The two convolutions over the whole film, its first frame six times."""
    video = torch.cat((frames[:1].expand(5, -1, -1, -1), frames))
    x = rearrange(video, "t c (h p) (w q) -> 1 (c p q) t h w", p=16, q=16)
    for conv, norm in ((projector.conv1, projector.norm1), (projector.conv2, projector.norm2)):
        x = functional.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate")
        x = functional.conv3d(x, conv.weight, conv.bias, stride=(2, 1, 1))
        x = x / x.square().mean(dim=1, keepdim=True).sqrt() * norm.gamma
        x = functional.silu(x)
    return projector.linear_layers[0](rearrange(x, "1 c f h w -> f h w c"))


def decoded_at_once(weights: dict[str, torch.Tensor], latents: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """All steps of the published decoder over all latents, by the numbers of its layers."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = weights[f"decoder.{name}.weight"]
        return functional.conv2d(x, weight, weights.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    given = rearrange(frames, "(f t) c (h p) (w q) -> f (c t p q) h w", t=4, p=8, q=8)
    x = 3 * torch.tanh(torch.cat((given, latents), dim=1) / 3)
    x = conv("3", conv("1", x).relu()).relu()
    for first, grow, steps in ((5, 9, 1), (11, 15, 2), (17, 21, 2)):
        for block in range(first, first + 3):
            y = torch.cat((x, torch.cat((0 * x[:1], x[:-1]))), dim=1)
            y = conv(f"{block}.conv.2", conv(f"{block}.conv.0", y).relu()).relu()
            x = (conv(f"{block}.conv.4", y) + x).relu()
        x = conv(f"{grow}.conv", x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        x = conv(f"{grow + 1}", torch.stack(x.chunk(steps, dim=1), dim=1).flatten(0, 1))
    return conv("26", conv("24", x.relu()).relu())


NAMES_OF_DIFFUSERS = {
    r"self_attn\.(q|k|v)\.": r"attn1.to_\1.",
    r"self_attn\.o\.": r"attn1.to_out.0.",
    r"self_attn\.norm_": r"attn1.norm_",
    r"cross_attn\.(q|k|v)\.": r"attn2.to_\1.",
    r"cross_attn\.o\.": r"attn2.to_out.0.",
    r"cross_attn\.norm_": r"attn2.norm_",
    r"ffn\.0\.": r"ffn.net.0.proj.",
    r"ffn\.2\.": r"ffn.net.2.",
    r"norm3\.": r"norm2.",
    r"(blocks\.\d+)\.modulation": r"\1.scale_shift_table",
    r"^head\.modulation": r"scale_shift_table",
    r"^head\.head\.": r"proj_out.",
    r"^(text|time)_embedding\.0\.": r"condition_embedder.\1_embedder.linear_1.",
    r"^(text|time)_embedding\.2\.": r"condition_embedder.\1_embedder.linear_2.",
    r"^time_projection\.1\.": r"condition_embedder.time_proj.",
}


class MaskedProcessor(WanAttnProcessor):
    """diffusers' processor with a mask [l l] in self-attention; its blocks pass none."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self._mask = mask

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        return super().__call__(attn, hidden_states, encoder_hidden_states, self._mask, rotary_emb)


def of_diffusers(dit: StreamingDiT, latents: torch.Tensor, added: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """The velocity by diffusers' Wan over all latents at once, under a mask that says which unit sees which."""
    unit = (torch.arange(len(latents)) // 2).repeat_interleave(latents[0, 0].numel() // 4)
    distance = unit.unsqueeze(1) - unit
    first = unit < FIRST_UNITS
    mask = (distance >= 0) & (distance <= KV_UNITS) | (first.unsqueeze(1) & first)
    wan = WanTransformer3DModel(
        num_attention_heads=DIT.heads,
        attention_head_dim=DIT.width // DIT.heads,
        in_channels=DIT.latent_channels,
        out_channels=DIT.latent_channels,
        text_dim=DIT.text_width,
        freq_dim=DIT.sinusoid_width,
        ffn_dim=DIT.ffn_width,
        num_layers=DIT.layers,
        rope_max_seq_len=64,
    )
    named = {}
    for key, tensor in dit.state_dict().items():
        for ours, theirs in NAMES_OF_DIFFUSERS.items():
            key = re.sub(ours, theirs, key)  # noqa: PLW2901 (one name, rewritten)
        named[key] = tensor
    wan.to(latents.dtype).load_state_dict(named)
    added = rearrange(added, "f h w d -> 1 d f h w")
    wan.patch_embedding.register_forward_hook(lambda _module, _given, patches: patches + added)
    for block in wan.blocks:
        block.attn1.set_processor(MaskedProcessor(mask))
    x = rearrange(latents, "f c h w -> 1 c f h w")
    return rearrange(wan(x, torch.tensor([1000]), prompt, return_dict=False)[0], "1 c f h w -> f c h w")


def upscaled_at_once(model: FlashVSR, frames: torch.Tensor) -> torch.Tensor:
    """Pictures of `frames`, whose sizes are multiples of 32 and whose number is 8n + 5, without the colour fix."""
    num_latents = (len(frames) + 3) // 4
    given = 2 * enlarged(frames.to(model.prompt)) - 1
    tokens = projected_at_once(model.projector, torch.cat((given, given[-1:].expand(4, -1, -1, -1))))
    size = (DIT.latent_channels, 2 * tokens.shape[1], 2 * tokens.shape[2])
    noise = KeyedNoise(0).draw("upscale", range(num_latents), size).to(model.prompt)
    latents = noise - of_diffusers(model.dit, noise, tokens, model.prompt)
    beside = torch.cat((given[:1].expand(3, -1, -1, -1), given))
    return decoded_at_once(model.decoder.state_dict(), latents, beside)[3:].clamp(0, 1)
