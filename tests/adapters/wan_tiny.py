"""Tiny random Wans that tests share; the sizes are those of diffusers' own tests, or smaller."""

from fractions import Fraction

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes

FORMS = ("2.1", "2.2")


def tiny_vae(form: str, dtype: torch.dtype = torch.float64) -> AutoencoderKLWan:
    """A small video autoencoder: 2.1 with four latent channels, 2.2 with patches and residual shortcuts."""
    common = {"dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    own = {
        "2.1": {"base_dim": 3, "z_dim": 4},
        "2.2": {
            "base_dim": 3,
            "decoder_base_dim": 4,
            "z_dim": 6,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
        },
    }[form]
    channels = own["z_dim"]
    statistics = {
        "latents_mean": [0.1 * channel - 0.2 for channel in range(channels)],
        "latents_std": [0.5 + 0.3 * channel for channel in range(channels)],
    }
    torch.manual_seed(7)
    return AutoencoderKLWan(**common, **own, **statistics).eval().to(dtype)


LATENT_CHANNELS = {"2.1": 4, "2.2": 6}
TEXT_WIDTH, IMAGE_WIDTH = 16, 8


def tiny_transformer(
    form: str = "2.1", *, beside: int = 0, image: bool = False, seed: int = 0, heads: int = 2
) -> WanTransformer3DModel:
    """A small denoiser for latents of `tiny_vae(form)`, with `beside` channels beside them, and an image to look at."""
    channels, width = LATENT_CHANNELS[form], 12 * heads
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=12,
        in_channels=channels + beside,
        out_channels=channels,
        text_dim=TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        image_dim=IMAGE_WIDTH if image else None,
        added_kv_proj_dim=width if image else None,
        rope_max_seq_len=32,
    ).eval()
    for parameter in transformer.parameters():  # diffusers' own start leaves biases at 0 and norms at 1
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return transformer


def one_chunk(num_latents: int, fps: int = 16) -> tuple[ChunkSpan, MediaClock]:
    """A film that is one chunk of a section whose first latent holds one frame."""
    clock = MediaClock(Fraction(fps), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0))
    scenes = plan_scenes(clock, [Fraction(clock.frames(num_latents), fps)], [True])
    (chunk,) = plan_chunks(clock, scenes, num_latents)
    return chunk, clock
