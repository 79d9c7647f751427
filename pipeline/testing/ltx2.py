"""Tiny LTX-2 networks of both versions with random weights, for tests and benches."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.models.seeding import seeded
from longtake.pipeline.testing import diffusers_folder as fake

Form = Literal["2.0", "2.3"]
FORMS: tuple[Form, ...] = ("2.0", "2.3")

LATENT_CHANNELS = 4
AUDIO_CHANNELS, AUDIO_MEL = 2, 2
"""Channels of an audio latent, and mel bands of each channel."""
CAPTION_WIDTH, TEXT_LAYERS = 8, 2
"""Width and number of layers of the text encoder."""
WORDS = ("<pad>", "<bos>", "<unk>", "a", "red", "blue", "circle", "rests")


def tiny_transformer(
    form: Form = "2.0", rope_type: str = "split", *, heads: int = 2, head_dim: int = 8, theta: float = 10_000.0
) -> LTX2VideoTransformer3DModel:
    """A small denoiser of LTX-2 2.0 or 2.3."""
    added: dict[str, Any] = {}
    if form == "2.3":
        added = dict.fromkeys(("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"), True)
        added |= {"perturbed_attn": True, "use_prompt_embeddings": False}
    with seeded(1):
        transformer = LTX2VideoTransformer3DModel(
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            cross_attention_dim=heads * head_dim,
            audio_in_channels=AUDIO_CHANNELS * AUDIO_MEL,
            audio_out_channels=AUDIO_CHANNELS * AUDIO_MEL,
            audio_num_attention_heads=heads,
            audio_attention_head_dim=head_dim // 2,
            audio_cross_attention_dim=heads * head_dim // 2,
            num_layers=2,
            caption_channels=CAPTION_WIDTH,
            rope_type=rope_type,
            rope_theta=theta,
            **added,
        )
        return fake.all_random(transformer)


def tiny_connectors(form: Form = "2.0", *, heads: int = 2, head_dim: int = 8) -> LTX2TextConnectors:
    """Small connectors that turn Gemma's hidden states into the prompts of both streams."""
    video, audio = head_dim, head_dim // 2
    if form == "2.0":  # one projection, and the transformer has its own
        video = audio = CAPTION_WIDTH // heads
    with seeded(2):
        return LTX2TextConnectors(
            caption_channels=CAPTION_WIDTH,
            text_proj_in_factor=TEXT_LAYERS + 1,
            video_connector_num_attention_heads=heads,
            video_connector_attention_head_dim=video,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=4,
            audio_connector_num_attention_heads=heads,
            audio_connector_attention_head_dim=audio,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=4,
            rope_type="split",
            per_modality_projections=form == "2.3",
            video_hidden_dim=heads * video,
            audio_hidden_dim=heads * audio,
        ).eval()


def tiny_video_vae(causal: bool = False) -> AutoencoderKLLTX2Video:
    """A small video autoencoder with the published temporal strides: 8k + 1 frames.

    Args:
        causal: use a causal decoder; the published decoder looks ahead.
    """
    with seeded(3):
        vae = AutoencoderKLLTX2Video(
            latent_channels=LATENT_CHANNELS,
            block_out_channels=(8, 16, 32, 64),
            decoder_block_out_channels=(8, 16, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            patch_size=1,
            spatial_compression_ratio=8,
            temporal_compression_ratio=8,
            decoder_spatial_padding_mode="zeros",
            decoder_causal=causal,
        ).eval()
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 2.0)
    return vae


def tiny_audio_vae() -> AutoencoderKLLTX2Audio:
    """A small sound autoencoder: four mel frames to a latent, 8 mel bands to 2."""
    with seeded(4):
        vae = AutoencoderKLLTX2Audio(
            base_channels=AUDIO_CHANNELS * AUDIO_MEL,
            latent_channels=AUDIO_CHANNELS,
            ch_mult=(1, 1, 1),
            num_res_blocks=1,
            resolution=32,
            mel_bins=4 * AUDIO_MEL,
        ).eval()
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 2.0)
    return vae


def tiny_vocoder() -> LTX2Vocoder:
    """A small vocoder: stereo at 8 kHz, 80 samples to a mel frame."""
    with seeded(5):
        return LTX2Vocoder(
            in_channels=2 * 4 * AUDIO_MEL,
            hidden_channels=16,
            upsample_kernel_sizes=[15, 8, 4],
            upsample_factors=[5, 8, 2],
            resnet_kernel_sizes=[3, 7],
            resnet_dilations=[[1, 3, 5], [1, 3, 5]],
            output_sampling_rate=8000,
        ).eval()


def tiny_wide_vocoder() -> LTX2VocoderWithBWE:
    """A small vocoder with bandwidth extension from 8 to 16 kHz."""
    small: dict[str, Any] = {"resnet_kernel_sizes": [3], "resnet_dilations": [[1, 3]]}
    with seeded(6):
        vocoder = LTX2VocoderWithBWE(
            in_channels=2 * 4 * AUDIO_MEL,
            hidden_channels=8,
            upsample_kernel_sizes=[11, 16],
            upsample_factors=[5, 16],
            bwe_in_channels=2 * 4,
            bwe_hidden_channels=8,
            bwe_upsample_kernel_sizes=[12, 11],
            bwe_upsample_factors=[4, 5],
            filter_length=32,
            hop_length=10,
            window_length=32,
            num_mel_channels=4,
            input_sampling_rate=8000,
            output_sampling_rate=16_000,
            **small,
            **{f"bwe_{key}": value for key, value in small.items()},
        ).eval()
        for buffer in (vocoder.mel_stft.mel_basis, vocoder.mel_stft.stft_fn.forward_basis):
            buffer.uniform_(0, 1)
    return vocoder


def tiny_tokenizer() -> Any:
    """A tokenizer of a few words, with a start token."""
    return fake.tokenizer_of(WORDS, "<bos> $A", bos_token="<bos>")


def tiny_text_encoder() -> Any:
    """A small Gemma."""
    text: dict[str, Any] = {"hidden_size": CAPTION_WIDTH, "intermediate_size": 16, "num_hidden_layers": TEXT_LAYERS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    eyes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with seeded(8):
        config: Any = Gemma3Config(
            text_config={**text, **heads, "vocab_size": len(WORDS), "sliding_window": 16},
            vision_config={**eyes, "image_size": 16, "patch_size": 8},
            mm_tokens_per_image=4,
        )
        encoder: Any = Gemma3ForConditionalGeneration(config)
    return encoder.eval()


def save(folder: Path, form: Form = "2.3", **mark: object) -> Path:
    """Save a tiny LTX-2 in diffusers' format; `mark` (chunk_latents, window, sink) marks it as causal."""
    pipeline = tiny_pipeline(form, text_encoder=tiny_text_encoder(), tokenizer=tiny_tokenizer())
    return fake.save(pipeline, folder, **mark)


def tiny_pipeline(form: Form = "2.3", *, theta: float = 10_000.0, **more: Any) -> Any:
    """diffusers' pipeline of a tiny LTX-2, without a text encoder unless `more` has one."""
    parts = {"text_encoder": None, "tokenizer": None, **more}
    pipeline = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_video_vae(),
        audio_vae=tiny_audio_vae(),
        connectors=tiny_connectors(form),
        transformer=tiny_transformer(form, theta=theta),
        vocoder=tiny_vocoder(),
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def one_chunk(num_latents: int, fps: int = 24) -> tuple[ChunkSpan, MediaClock]:
    """A film of a single chunk, and its clock: 8k + 1 frames, 25 audio latents per second."""
    clock = MediaClock(Fraction(fps), 24_000, 8, 960, first_latent_frames=1, audio_centre=Fraction(-1, 4))
    return fake.only_chunk(clock, num_latents), clock
