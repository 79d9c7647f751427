"""One pass of every Wan equals diffusers' forward pass, and weights that need an image report its absence."""

import pytest
import torch

from longtake.jobs.bench.wan_parity import (
    CHUNK,
    LATENTS,
    PASSES,
    SIZE,
    TEXT,
    PassCase,
    our_pass,
    pass_difference,
    randn,
    streams_of,
    their_pass as theirs,
)
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.adapters.wan.experts import WanExperts
from longtake.pipeline.attention import fused
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.lazy_loading import LazyDenoiser
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.testing.wan import TEXT_WIDTH, one_chunk, tiny_transformer
from tests.adapters.called import called_in

BOUNDARY = 0.875


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES.keys())
def test_a_pass_equals_diffusers_forward(case):
    assert pass_difference(case) <= 1e-5


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES.keys())
def test_a_pass_in_the_fused_kernels_of_a_gpu_equals_diffusers_forward(case, monkeypatch):
    monkeypatch.setattr(fused, "_fuses", lambda _: True)
    assert pass_difference(case) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("image", [False, True])
def test_blocks_and_their_layers_are_called_as_modules(image):
    transformer = tiny_transformer(extra=8 if image else 0, image=image)
    streams = streams_of(PassCase("2.1", 8 if image else 0, image), torch.tensor([[0.6]]))
    denoiser, text = WanDenoiser(transformer), randn(1, TEXT, 24)
    missing = called_in(transformer.blocks, lambda: our_pass(denoiser, streams, text))
    assert not missing, "LoRAs and offloading hook them"


def test_a_noise_level_per_latent_equals_a_timestep_per_token():
    assert pass_difference(PassCase("2.2"), torch.tensor([[0.0, 0.2, 0.9, 0.9, 0.5]])) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize(("sigma", "expert"), [(1.0, 0), (BOUNDARY, 0), (0.874, 1), (0.0, 1)])
def test_the_noise_level_chooses_the_expert_and_the_other_is_never_loaded(sigma, expert):
    text, level = randn(1, TEXT, TEXT_WIDTH, seed=3), torch.tensor([[sigma]])
    streams, transformers = streams_of(PassCase("2.1"), level), [tiny_transformer(seed=seed) for seed in (4, 5)]
    expected = theirs(transformers[expert], streams, 1000 * level[0], text)
    both = torch.cat([one.condition_embedder.text_embedder(text) for one in transformers], dim=-1)
    loaded = []

    def load(index: int):
        def now() -> WanDenoiser:
            loaded.append(index)
            return WanDenoiser(transformers[index])

        return now

    whole = WanDenoiser(transformers[0])
    experts = WanExperts([LazyDenoiser(whole.rope, whole.sites, load(index)) for index in (0, 1)], 2, BOUNDARY)
    assert (our_pass(experts, streams, both) - expected).abs().max() <= 1e-5
    assert loaded == [expert]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, False), "8 condition channels for each latent"),
        ((8, False), "what CLIP sees"),
        ((3, True), r"\[1, 5, 3, 4, 6\]"),
    ],
)
def test_weights_that_continue_an_image_report_missing_streams(given, message):
    streams = streams_of(PassCase("2.1", *given), torch.tensor([[0.6]]))
    denoiser = WanDenoiser(tiny_transformer(extra=8, image=True))
    with pytest.raises(SpecError, match=message):
        denoiser.embed(streams, randn(1, TEXT, 24))


@torch.inference_mode()
def test_a_chunk_after_a_short_first_latent_has_wans_positions():
    denoiser, (_, clock) = WanDenoiser(tiny_transformer()), one_chunk(4)
    cut_s = 1001 / 16
    times = torch.tensor(clock.video_times(one_chunk(4)[0]), dtype=torch.float64)
    for start_s in (0.0, cut_s):
        streams = {"video": Stream(randn(1, 4, 4, *SIZE), torch.ones(1, 4), start_s + times)}
        positions = denoiser.embed(streams, randn(1, TEXT, 24))["video"].positions[:, 0, 0]
        assert torch.allclose(positions.diff(), torch.full((3,), 0.25, dtype=torch.float64), atol=1e-12)


@torch.inference_mode()
def test_weights_in_bfloat16_keep_latents_in_float32():
    streams = streams_of(PassCase("2.1"), torch.tensor([[0.6]]))
    exact, rough = (WanDenoiser(tiny_transformer().to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    text = randn(1, TEXT, 24, seed=3)
    store = KVStore(rough.sites(*SIZE, LATENTS, 0), KVPlan(1), rough.rope, dtype=torch.bfloat16)
    with store.open(CHUNK, "guided") as context:
        got = predict(rough, streams, text, context)["video"]
    assert got.dtype == torch.float32
    assert (got - our_pass(exact, streams, text)).abs().max() <= 0.1
