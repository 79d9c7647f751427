"""Tiny random Wans that tests share; the sizes are those of diffusers' own tests, or smaller."""

import json
from fractions import Fraction
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

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
    return nn.Module.to(AutoencoderKLWan(**common, **own, **statistics).eval(), dtype)  # diffusers warns of its own


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
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return transformer


def one_chunk(num_latents: int, fps: int = 16) -> tuple[ChunkSpan, MediaClock]:
    """A film that is one chunk of a section whose first latent holds one frame."""
    clock = MediaClock(Fraction(fps), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0))
    scenes = plan_scenes(clock, [Fraction(clock.frames(num_latents), fps)], [True])
    (chunk,) = plan_chunks(clock, scenes, num_latents)
    return chunk, clock


WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "&")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words to numbers, with an end."""
    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(11)
    sizes = {"d_model": TEXT_WIDTH, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3}
    return UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), **sizes)).eval()


def tiny_pipeline(kind: str, shift: float = 3.0) -> WanPipeline | WanImageToVideoPipeline:
    """diffusers' pipeline of a tiny Wan of this kind: "2.1", "5b" or "a14b", from text or, with "i2v ", an image."""
    form = "2.2" if kind.endswith("5b") else "2.1"
    beside = 8 if kind in ("i2v 2.1", "i2v a14b") else 0
    parts = {
        "vae": tiny_vae(form, torch.float32),
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
        "transformer": tiny_transformer(form, beside=beside, image=kind == "i2v 2.1", seed=1),
        "transformer_2": tiny_transformer(form, beside=beside, seed=2) if kind.endswith("a14b") else None,
        "boundary_ratio": 0.875 if kind.endswith("a14b") else None,
        "expand_timesteps": kind.endswith("5b"),
    }
    if kind == "i2v 2.1":
        sizes = {"hidden_size": IMAGE_WIDTH, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
        parts["image_encoder"] = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14)).eval()
        parts["image_processor"] = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return (WanImageToVideoPipeline if kind.startswith("i2v") else WanPipeline)(**parts)


def save(pipeline: WanPipeline | WanImageToVideoPipeline, folder: Path, **mark: object) -> Path:
    """A folder in diffusers' format, marked as causal by chunk_latents, window and sink."""
    pipeline.save_pretrained(folder)
    if mark:
        (folder / "longtake.json").write_text(json.dumps({"rollout": "causal", **mark}))
    return folder
