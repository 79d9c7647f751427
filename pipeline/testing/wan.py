"""Tiny Wan models of every kind with random weights, in diffusers' format, for tests and benches."""

from fractions import Fraction
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.models.seeding import seeded
from longtake.pipeline.testing.diffusers_folder import all_random, only_chunk, tokenizer_of

Form = Literal["2.1", "2.2"]
"""The version of the video autoencoder; 2.2 is that of TI2V-5B."""
FORMS: tuple[Form, ...] = ("2.1", "2.2")
Kind = Literal["2.1", "5b", "a14b", "i2v 2.1", "i2v 5b", "i2v a14b"]
"""The kind of pipeline: text to video, or image to video."""

LATENT_CHANNELS = {"2.1": 4, "2.2": 6}
TEXT_WIDTH, IMAGE_WIDTH = 16, 8
CONDITION_CHANNELS = 4 + LATENT_CHANNELS["2.1"]
"""Channels that image-to-video weights read in addition to the latents: the mask and latents of the image."""
WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "&")


def tiny_vae(form: Form, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """A small video autoencoder: 2.1 with four latent channels, or 2.2 with six, patches and residual shortcuts."""
    channels = LATENT_CHANNELS[form]
    sizes: dict[str, Any] = {"base_dim": 3, "z_dim": channels, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    if form == "2.2":
        sizes |= {"decoder_base_dim": 4, "is_residual": True, "in_channels": 12, "out_channels": 12}
        sizes |= {"patch_size": 2, "scale_factor_spatial": 16}
    mean = [0.1 * channel - 0.2 for channel in range(channels)]
    std = [0.5 + 0.3 * channel for channel in range(channels)]
    with seeded(7):
        vae = AutoencoderKLWan(**sizes, temperal_downsample=[False, True, True], latents_mean=mean, latents_std=std)
    nn.Module.to(vae.eval(), dtype)  # diffusers' own `to` warns
    return vae


def tiny_transformer(
    form: Form = "2.1", *, extra: int = 0, image: bool = False, seed: int = 0, heads: int = 2
) -> WanTransformer3DModel:
    """A small denoiser for latents of `tiny_vae(form)`.

    Args:
        extra: channels that it reads in addition to the latents.
        image: whether it also attends to image tokens.
    """
    channels, width = LATENT_CHANNELS[form], 12 * heads
    with seeded(seed):
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=channels + extra,
            out_channels=channels,
            text_dim=TEXT_WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            image_dim=IMAGE_WIDTH if image else None,
            added_kv_proj_dim=width if image else None,
            rope_max_seq_len=32,
        )
        return all_random(transformer)


def tiny_tokenizer() -> Any:
    """A tokenizer of a few words, with an end token."""
    return tokenizer_of(WORDS, "$A </s>", eos_token="</s>")


def tiny_text_encoder() -> Any:
    """A small UMT5."""
    sizes: dict[str, Any] = {"d_model": TEXT_WIDTH, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3}
    with seeded(11):
        encoder: Any = UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), **sizes))
    return encoder.eval()


def tiny_clip() -> tuple[Any, Any]:
    """A small CLIP that encodes an image as five tokens."""
    sizes: dict[str, Any] = {"hidden_size": IMAGE_WIDTH, "intermediate_size": 12, "num_attention_heads": 2}
    with seeded(13):
        encoder: Any = CLIPVisionModel(CLIPVisionConfig(**sizes, num_hidden_layers=3, image_size=28, patch_size=14))
    return CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}), encoder.eval()


def tiny_pipeline(kind: Kind, shift: float = 3.0) -> Any:
    """diffusers' pipeline of a tiny Wan with an Euler scheduler of the given `shift`."""
    form: Form = "2.2" if kind.endswith("5b") else "2.1"
    two, extra = kind.endswith("a14b"), CONDITION_CHANNELS if kind in ("i2v 2.1", "i2v a14b") else 0
    parts = {
        "vae": tiny_vae(form),
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
        "transformer": tiny_transformer(form, extra=extra, image=kind == "i2v 2.1", seed=1),
        "transformer_2": tiny_transformer(form, extra=extra, seed=2) if two else None,
        "boundary_ratio": 0.875 if two else None,
        "expand_timesteps": kind.endswith("5b"),
    }
    if kind == "i2v 2.1":
        parts["image_processor"], parts["image_encoder"] = tiny_clip()
    pipeline = (WanImageToVideoPipeline if kind.startswith("i2v") else WanPipeline)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def one_chunk(num_latents: int, fps: int = 16) -> tuple[ChunkSpan, MediaClock]:
    """A film of a single chunk whose first latent holds one frame, and its clock."""
    clock = MediaClock(Fraction(fps), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0))
    return only_chunk(clock, num_latents), clock
