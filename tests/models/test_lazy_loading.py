"""A part is loaded once, on first use, and not by planning."""

import pytest
import torch

from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.embedded import TINY
from longtake.pipeline.models.lazy_loading import LazyDecoder, LazyDenoiser
from longtake.pipeline.models.protocols import Stream
from tests.tiny import SHAPES, tiny_chunks, tiny_model


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def loads():
    return []


def loading(loads, part):
    """A function that gives `part`, and counts."""
    return lambda: loads.append(part) or part


def test_a_lazy_denoiser_has_sites_and_rope_without_weights_and_computes_the_same(model, loads):
    shape = tiny_model(seed=1).denoiser.to("meta")
    lazy = LazyDenoiser(shape.rope, shape.sites, loading(loads, model.denoiser))
    sites = model.denoiser.sites(4, 4, 4, 50)
    assert lazy.sites(4, 4, 4, 50) == sites
    store = KVStore(sites, model.kv_plan, lazy.rope, dtype=torch.float64)
    assert loads == []
    torch.manual_seed(0)
    clock = model.clock(16)
    chunk = tiny_chunks(clock, [2], [True])[0]
    streams = streams_of(clock, chunk)
    text = torch.randn(1, TINY.denoiser.text_tokens, TINY.denoiser.text_width, dtype=torch.float64)
    velocities = []
    for denoiser in (model.denoiser, lazy, lazy):
        with store.open(chunk, "guided") as context:
            velocities.append(predict(denoiser, streams, text, context)["video"])
    assert torch.equal(velocities[0], velocities[1])
    assert list(lazy.blocks) == list(model.denoiser.blocks)
    assert loads == [model.denoiser]


def streams_of(clock, chunk):
    latents = {"video": chunk.latents, "audio": chunk.audio_latents}
    times = {"video": clock.video_times(chunk), "audio": clock.audio_times(chunk)}
    return {
        name: Stream(
            torch.randn(1, len(latents[name]), *SHAPES[name], dtype=torch.float64),
            torch.full((1, len(latents[name])), 0.5, dtype=torch.float64),
            torch.tensor(times[name], dtype=torch.float64),
        )
        for name in latents
    }


def test_a_decoder_states_its_context_without_weights(model, loads):
    whole = model.sound_codec
    lazy = LazyDecoder(whole.left_context, whole.lookahead, loading(loads, whole))
    assert (lazy.left_context, lazy.lookahead, loads) == (whole.left_context, whole.lookahead, [])
    latents = torch.randn(1, 20, TINY.sound_codec.latent_channels, dtype=torch.float64)
    for _ in range(2):
        assert torch.equal(lazy.decode(latents, None, True)[0], whole.decode(latents, None, True)[0])
    assert loads == [whole]


def test_a_codec_that_encodes_is_loaded_once_for_both(model, loads):
    whole = model.video_codec
    lazy = LazyDecoder(whole.left_context, whole.lookahead, loading(loads, whole))
    frames = torch.rand(1, 16, 3, 32, 32, dtype=torch.float64)
    latents = lazy.encode(frames)
    assert torch.equal(latents, whole.encode(frames))
    assert torch.equal(lazy.decode(latents, None, True)[0], whole.decode(latents, None, True)[0])
    assert loads == [whole]
