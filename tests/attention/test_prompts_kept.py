"""Keys and values of a prompt are made once for all passes that read it, and no bit depends on that."""

from fractions import Fraction

import pytest
import torch

from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention import kv_context
from longtake.pipeline.attention.kv_plan import NOTHING_KEPT, KVPlan, store_bytes
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.models.adapted import Applied, LoraDenoiser, NetworkLoras
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.continuation import ContinuationEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree, PerStream, StreamScales
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.testing.wan import TEXT_WIDTH, tiny_transformer
from longtake.pipeline.values import PromptEmbedding
from longtake.pipeline.weights.lora import lora_of
from tests.tiny import prompts, tiny_chunks, tiny_model, tiny_rollout, tiny_store

TEXTS = ("a red circle bounces fast", "a blue square rests")
STEPS, LAYERS = 3, 2
WAN_CLOCK = MediaClock(Fraction(16), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0))
SHAPES = {"video": (4, 4, 6), "audio": (0,)}


@pytest.fixture
def made(monkeypatch):
    """The layers that make keys and values of a prompt, in turn."""
    count, make = [], kv_context.PromptKV.made

    def counted(self):
        count.append(self.owner)
        return make(self)

    monkeypatch.setattr(kv_context.PromptKV, "made", counted)
    return count


def built_in_film(loras=()):
    model = tiny_model(torch.float32)
    clock = model.clock(Fraction(16))
    chunks = tiny_chunks(clock, [1, 1], [True, False])
    rollout = tiny_rollout(model, tiny_store(model, KVPlan(2), chunks), clock, STEPS)
    if loras:
        applied = NetworkLoras(loras)
        applied.attach(model.denoiser)
        rollout.denoiser = ShardedDenoiser(LoraDenoiser(model.denoiser, [applied]), ONE_RANK)
    return [rollout.denoise(chunk, prompts(model, TEXTS[chunk.scene])) for chunk in chunks]


def lora_of_text_keys(seed):
    layer = tiny_model(torch.float32).denoiser.blocks[0].text.to_kv
    draw = torch.Generator().manual_seed(seed)
    out, width = layer.weight.shape
    name = "blocks.0.text.to_kv"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(2, width, generator=draw),
        f"{name}.lora_B.weight": torch.randn(out, 2, generator=draw),
    }
    return lora_of(tensors, {f"{name}.weight": layer.weight.shape}).changes


def film_with_loras():
    """One LoRA at high noise levels only, and one in the second scene only."""
    return built_in_film([
        Applied(lora_of_text_keys(1), noise=(1.0, 0.8)), Applied(lora_of_text_keys(2), scenes=(1,)),
    ])  # fmt: skip


def wan_film(causal, guidance=None):
    guidance = guidance or ClassifierFree(2.0)
    with torch.inference_mode():
        wan = WanDenoiser(tiny_transformer(), text_tokens=5)
        texts = wan.project(torch.randn(3, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(1)))
    chunks = tiny_chunks(WAN_CLOCK, [17 / 16, 1], [True, False], 2)
    plan = KVPlan(1) if causal else NOTHING_KEPT
    store = KVStore(wan.sites(4, 6, 3, 9), plan, wan.rope, branches=guidance.branches)
    sampling = Sampling(noise_levels(STEPS), Euler(), guidance, KeyedNoise(3))
    parts = (ShardedDenoiser(wan, ONE_RANK), store, WAN_CLOCK, sampling, SHAPES)
    rollout = CausalEngine(*parts) if causal else ContinuationEngine(Continuation(1), *parts)

    def prompt(branch, scene):  # a copy for every chunk, as actors get it
        name, tokens = ("", texts[2]) if branch == "unguided" else (TEXTS[scene], texts[scene])
        return PromptEmbedding(name, tokens.clone())

    films = [
        rollout.denoise(chunk, {branch: prompt(branch, chunk.scene) for branch in guidance.branches})
        for chunk in chunks
    ]
    return films, store


def same(one, other):
    return all(torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio) for a, b in zip(one, other, strict=True))


FILMS = {
    "built-in": built_in_film,
    "LoRAs": film_with_loras,
    "causal": lambda: wan_film(causal=True)[0],
    "segments": lambda: wan_film(causal=False)[0],
}


@pytest.mark.parametrize("film", FILMS.values(), ids=FILMS)
def test_a_film_has_the_bits_of_one_that_makes_them_in_every_pass(film, made, monkeypatch):
    kept, few = film(), len(made)
    monkeypatch.setattr(kv_context.KeptPrompt, "is_of", lambda *_: False)
    assert same(kept, film())
    assert len(made) - few > 1.5 * few


@pytest.mark.parametrize("causal", [True, False])
def test_they_are_made_once_for_each_layer_scene_and_prompt(causal, made):
    assert len(wan_film(causal)[0]) > 2
    assert len(made) == LAYERS * (2 + 1), "two scenes, and the empty prompt"


def test_noise_levels_are_embedded_once_for_all_branches_of_a_step(monkeypatch):
    embedded, embed = [], WanDenoiser._time
    monkeypatch.setattr(WanDenoiser, "_time", lambda self, *rest: embedded.append(1) or embed(self, *rest))
    film, _ = wan_film(causal=False)
    assert len(embedded) == STEPS * len(film)


def test_passes_that_read_the_same_prompt_share_them(made):
    scales = {name: StreamScales(prompt=2.0, stg=1.0) for name in SHAPES}
    _, store = wan_film(causal=False, guidance=PerStream(scales, stg_layers=[0]))
    assert len(made) == LAYERS * (2 + 1)
    sites = list(store.layouts.values())
    assert store.bytes == store_bytes(sites, NOTHING_KEPT, branches=("guided", "unguided", "stg"), item_bytes=4)


def test_loras_change_what_is_made_of_a_prompt():
    assert not same(built_in_film(), film_with_loras())
