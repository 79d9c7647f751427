"""Wan's video codec decodes chunks exactly as diffusers decodes the whole, and depends only on its declared context."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from longtake.jobs.bench.wan_parity import decoded_at_once, decoded_in_chunks
from longtake.pipeline.adapters.wan.video_codec import WanVideoCodec, left_context
from longtake.pipeline.testing.wan import FORMS, tiny_vae

LATENTS = 12


@pytest.fixture(scope="module", params=FORMS)
def codec(request):
    return WanVideoCodec(tiny_vae(request.param, torch.float64))


def noise(codec: WanVideoCodec, num_latents: int = LATENTS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    channels = codec.vae.config.z_dim
    return torch.randn(1, num_latents, channels, 2, 3, generator=generator, dtype=torch.float64).to(codec.vae.dtype)


@pytest.fixture(scope="module")
@torch.inference_mode()
def whole(codec):
    """The frames of all latents by diffusers."""
    return decoded_at_once(codec, noise(codec))


@torch.inference_mode()
@pytest.mark.parametrize("borders", [[], [1], [3, 6, 9], [2, 3, 7], [*range(1, LATENTS)]], ids=str)
def test_chunks_of_any_size_decode_as_diffusers_decodes_the_whole(codec, whole, borders):
    got = decoded_in_chunks(codec, noise(codec), borders)
    assert got.shape == whole.shape == (1, 1 + 4 * (LATENTS - 1), 3, 2 * codec.stride, 3 * codec.stride)
    assert (got - whole).abs().max() <= 1e-10
    assert whole.std() > 0.01


@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
def test_in_float32_no_chunk_plan_changes_a_bit(form):
    codec = WanVideoCodec(tiny_vae(form, torch.float32))
    latents = noise(codec)
    whole = decoded_in_chunks(codec, latents, [])
    assert torch.equal(decoded_in_chunks(codec, latents, [3, 6, 9]), whole)
    assert torch.equal(decoded_in_chunks(codec, latents, [5]), whole)


@torch.inference_mode()
def test_a_state_can_be_continued_twice(codec):
    latents = noise(codec)
    _, state = codec.decode(latents[:, :3], None, final=False)
    once, _ = codec.decode(latents[:, 3:6], state, final=False)
    codec.decode(latents[:, 6:8], None, final=True)
    decoded_at_once(codec, latents)
    assert torch.equal(codec.decode(latents[:, 3:6], state, final=False)[0], once)


@torch.inference_mode()
def test_a_decoder_started_with_its_left_context_has_the_same_bits(codec):
    latents = noise(codec, codec.left_context + 3)
    late = decoded_in_chunks(codec, latents[:, -1 - codec.left_context :], [])
    assert torch.equal(late[:, -4:], decoded_in_chunks(codec, latents, [])[:, -4:])


def test_the_frames_of_a_latent_depend_exactly_on_its_left_context(codec):
    latents = noise(codec, codec.left_context + 3).requires_grad_()
    # The farthest gradients are 1e-55, and diffusers' upsampling takes them through float32.
    (1e25 * decoded_in_chunks(codec, latents, [])[:, -4:].sum()).backward()
    reach = latents.grad.abs().amax(dim=(0, 2, 3, 4)).flip(0)
    assert (reach[: codec.left_context + 1] > 0).all()
    assert (reach[codec.left_context + 1 :] == 0).all()


def test_the_left_context_of_the_published_decoders():
    with torch.device("meta"):
        assert left_context(AutoencoderKLWan().decoder) == 38


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 9])
def test_frames_are_encoded_as_in_diffusers_image_conditioning(codec, frames):
    size = (2 * codec.stride, 2 * codec.stride)
    pixels = torch.rand(1, frames, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    config, shape = codec.vae.config, (1, -1, 1, 1, 1)
    mode = codec.vae.encode(pixels.transpose(1, 2)).latent_dist.mode()
    mean, std = torch.tensor(config.latents_mean).view(shape), torch.tensor(config.latents_std).view(shape)
    assert torch.allclose(codec.encode(pixels), ((mode - mean) / std).transpose(1, 2), atol=1e-12)
    assert codec.encode(pixels).shape == (1, 1 + (frames - 1) // 4, config.z_dim, 2, 2)
