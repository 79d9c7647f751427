"""One pass of every Wan through our attention is diffusers' own forward, and weights that need an image ask for it."""

import pytest
import torch

from pipeline.adapters.wan import WanDenoiser
from pipeline.adapters.wan_experts import WanExperts, WanSizes
from pipeline.adapters.wan_fake import IMAGE_WIDTH, LATENT_CHANNELS, TEXT_WIDTH, one_chunk, tiny_transformer
from pipeline.attention.kv_plan import KVPlan
from pipeline.attention.kv_store import KVStore
from pipeline.errors import SpecError
from pipeline.models.protocols import Stream

LATENTS, SIZE, TEXT, IMAGE, SIGMA, BOUNDARY = 5, (4, 6), 512, 7, 0.6, 0.875
CHUNK, CLOCK = one_chunk(LATENTS)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(latents: torch.Tensor, sigma: torch.Tensor) -> Stream:
    return Stream(latents, sigma.expand(latents.shape[:2]), torch.tensor(CLOCK.video_times(CHUNK)))


def streams_of(form: str, sigma: torch.Tensor, beside: int = 0, image: bool = False) -> dict[str, Stream]:
    found = {
        "video": stream(randn(1, LATENTS, LATENT_CHANNELS[form], *SIZE), sigma),
        "audio": Stream(torch.zeros(1, 9, 0), torch.zeros(1, 9), torch.zeros(9)),
    }
    if beside:
        found["condition"] = stream(randn(1, LATENTS, beside, *SIZE, seed=1), torch.zeros(1))
    if image:
        found["image"] = Stream(randn(1, IMAGE, IMAGE_WIDTH, seed=2), torch.zeros(1, IMAGE), torch.zeros(IMAGE))
    return found


def ours(denoiser: WanDenoiser | WanExperts, streams: dict[str, Stream], text: torch.Tensor) -> torch.Tensor:
    store = KVStore(denoiser.sites(*SIZE, LATENTS, 0), KVPlan(1), denoiser.rope)
    with store.open(CHUNK, "guided", write=True) as context:
        velocities = denoiser(streams, text, context)
        context.commit()
    assert velocities["audio"].shape == (1, 9, 0)
    return velocities["video"]


def theirs(transformer, streams: dict[str, Stream], timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    channels = [streams[name].latents for name in ("video", "condition") if name in streams]
    image = streams["image"].latents if "image" in streams else None
    x = torch.cat(channels, dim=2).transpose(1, 2)
    return transformer(x, timestep, text, image, return_dict=False)[0].transpose(1, 2)


def per_token(sigma: torch.Tensor) -> torch.Tensor:
    """A timestep for every token, as `expand_timesteps` asks."""
    return 1000 * sigma.repeat_interleave(SIZE[0] * SIZE[1] // 4, dim=1)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("form", "beside", "image"),
    [("2.1", 0, False), ("2.2", 0, False), ("2.1", 8, True), ("2.1", 8, False)],
    ids=["2.1 from text", "2.2 5B", "2.1 from an image", "2.2 A14B from an image"],
)
def test_a_pass_is_diffusers_forward(form, beside, image):
    text, sigma = randn(1, TEXT, TEXT_WIDTH, seed=3), torch.tensor([[SIGMA]])
    streams, transformer = streams_of(form, sigma, beside, image), tiny_transformer(form, beside=beside, image=image)
    expected = theirs(transformer, streams, 1000 * sigma[0], text)
    denoiser = WanDenoiser(transformer)
    got = ours(denoiser, streams, denoiser.project(text))
    assert expected.std() > 0.1
    assert (got - expected).abs().max() <= 1e-5


@torch.inference_mode()
def test_every_latent_has_the_noise_level_of_its_own_as_tokens_have_timesteps_in_the_5b():
    text, sigma = randn(1, TEXT, TEXT_WIDTH, seed=3), torch.tensor([[0.0, 0.2, 0.9, 0.9, 0.5]])
    streams, transformer = streams_of("2.2", sigma), tiny_transformer("2.2")
    expected = theirs(transformer, streams, per_token(sigma), text)
    uniform = theirs(transformer, streams, per_token(torch.full((1, LATENTS), 0.9)), text)
    denoiser = WanDenoiser(transformer)
    assert (ours(denoiser, streams, denoiser.project(text)) - expected).abs().max() <= 1e-5
    assert (uniform - expected).abs().max() > 0.01


@torch.inference_mode()
@pytest.mark.parametrize(("sigma", "expert"), [(1.0, 0), (BOUNDARY, 0), (0.874, 1), (0.0, 1)])
def test_the_noise_level_chooses_the_expert_and_the_other_is_never_loaded(sigma, expert):
    text, level = randn(1, TEXT, TEXT_WIDTH, seed=3), torch.tensor([[sigma]])
    streams, transformers = streams_of("2.1", level), [tiny_transformer(seed=seed) for seed in (4, 5)]
    expected = theirs(transformers[expert], streams, 1000 * level[0], text)
    both = torch.cat([one.condition_embedder.text_embedder(text) for one in transformers], dim=-1)
    loaded = []

    def load(index: int):
        def now() -> WanDenoiser:
            loaded.append(index)
            return WanDenoiser(transformers[index])

        return now

    experts = WanExperts([load(0), load(1)], WanSizes(transformers[0].config, 4.0), BOUNDARY)
    assert (ours(experts, streams, both) - expected).abs().max() <= 1e-5
    assert loaded == [expert]


@pytest.mark.parametrize(
    ("given", "told"),
    [((0, False), "8 channels beside each latent"), ((8, False), "what CLIP sees"), ((3, True), r"\[1, 5, 3, 4, 6\]")],
)
def test_weights_that_continue_an_image_say_what_is_missing(given, told):
    streams = streams_of("2.1", torch.tensor([[SIGMA]]), *given)
    denoiser = WanDenoiser(tiny_transformer(beside=8, image=True))
    with pytest.raises(SpecError, match=told):
        denoiser.embed(streams, randn(1, TEXT, 24))


@torch.inference_mode()
def test_a_chunk_after_a_short_first_latent_lies_where_wan_counts_it():
    denoiser, (_, clock) = WanDenoiser(tiny_transformer()), one_chunk(4)
    cut_s = 1001 / 16
    times = torch.tensor(clock.video_times(one_chunk(4)[0]), dtype=torch.float64)
    for start_s in (0.0, cut_s):
        streams = {"video": Stream(randn(1, 4, 4, *SIZE), torch.ones(1, 4), start_s + times)}
        positions = denoiser.embed(streams, randn(1, TEXT, 24))["video"].positions[:, 0, 0]
        assert torch.allclose(positions.diff(), torch.full((3,), 0.25, dtype=torch.float64), atol=1e-12)


@torch.inference_mode()
def test_weights_in_bfloat16_move_latents_in_float32():
    streams = streams_of("2.1", torch.tensor([[SIGMA]]))
    exact, rough = (WanDenoiser(tiny_transformer().to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    text = randn(1, TEXT, 24, seed=3)
    store = KVStore(rough.sites(*SIZE, LATENTS, 0), KVPlan(1), rough.rope, dtype=torch.bfloat16)
    with store.open(CHUNK, "guided") as context:
        got = rough(streams, text, context)["video"]
    assert got.dtype == torch.float32
    assert (got - ours(exact, streams, text)).abs().max() <= 0.1
