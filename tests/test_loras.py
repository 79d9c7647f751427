"""LoRAs run unmerged, scene by scene, and equal merged weights; they are part of the keys, and resume bit for bit."""

import pytest
import torch
from safetensors.torch import save_file

from longtake.pipeline import acts, film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.adapted import detach
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import located, parse_storyboard, split_strength
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.thread_ranks import run_threads
from longtake.pipeline.weights.lora import lora_of, merge
from tests.tiny_take import KilledError, Recorder

BOARD = """
model: tiny
seed: 2
sampling: {steps: 1}
loras: %s
scenes:
  - {prompt: a red circle rests, duration: 1s}
  - {prompt: a blue square rests, duration: 1s, transition: cut}
"""


def tensors_for(model, seed, size=0.05):
    """A LoRA of rank 2 for every linear layer of the blocks, and a change of one bias."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, layer in model.denoiser.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.startswith(("blocks", "heads")):
            out, width = layer.weight.shape
            found[f"transformer.{name}.lora_A.weight"] = torch.randn(2, width, generator=generator)
            found[f"transformer.{name}.lora_B.weight"] = size * torch.randn(out, 2, generator=generator)
            if layer.bias is not None:
                found[f"transformer.{name}.diff_b"] = size * torch.randn(out, generator=generator)
    return found


@pytest.fixture(scope="module")
def model():
    return EmbeddedModel.untrained(TINY)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    for seed in (1, 2):
        save_file(tensors_for(model, seed), folder / f"{seed}.safetensors")
    return folder


def take(model, loras, files, store, **changes):
    storyboard = located(
        parse_storyboard(BOARD % loras, tuple(f"{k}={v}" for k, v in changes.items())), f"{files}/a.yaml"
    )
    return open_take(plan_film(storyboard, model), model, Store(store), numerics(model))


def latents(opened):
    film.render(opened)
    return [opened.journal.latents(chunk) for chunk in opened.plan.chunks]


def merged(model, *seeds, strength=1.0):
    other = EmbeddedModel.untrained(TINY)
    detach(model.denoiser)
    state = {key: x.clone() for key, x in model.denoiser.state_dict().items()}
    for seed in seeds:
        merge(state, lora_of(tensors_for(model, seed), {key: x.shape for key, x in state.items()}), strength)
    other.denoiser.load_state_dict(state)
    return other


def close(a, b):
    return all(
        torch.allclose(x.video, y.video, rtol=0, atol=1e-5) and torch.allclose(x.audio, y.audio, rtol=0, atol=1e-5)
        for x, y in zip(a, b, strict=True)
    )


def test_unmerged_equals_merged_and_nothing_stays_behind(model, files):
    plain = latents(take(model, "[]", files, "memory://lora-plain"))
    opened = take(model, "[{file: 1.safetensors, strength: 0.5}, {file: 2.safetensors}]", files, "memory://lora-two")
    found = latents(opened)
    both = merged(merged(model, 1, strength=0.5), 2)
    assert close(found, latents(take(both, "[]", files, "memory://lora-merged")))
    assert not close(found, plain)
    assert opened.notes[0].startswith("1.safetensors changes ")
    assert "strength 0.5" in opened.notes[0]
    assert numerics(model) == numerics(EmbeddedModel.untrained(TINY)), "LoRAs are no part of the weights"
    again = latents(take(model, "[]", files, "memory://lora-after"))
    assert all(torch.equal(x.video, y.video) for x, y in zip(again, plain, strict=True)), "the model is as it was"


def test_two_scenes_with_two_loras_equal_two_films(model, files):
    loras = "[{file: 1.safetensors, scenes: [0]}, {file: 2.safetensors, scenes: [1]}]"
    one = take(model, "[{file: 1.safetensors}]", files, "memory://lora-one")
    both = take(model, loras, files, "memory://lora-scenes")
    two = take(model, "[{file: 2.safetensors}]", files, "memory://lora-other")
    found, first, second = latents(both), latents(one), latents(two)
    for chunk, each, a, b in zip(both.plan.chunks, found, first, second, strict=True):
        wanted = a if chunk.scene == 0 else b
        assert torch.equal(each.video, wanted.video)
        assert torch.equal(each.audio, wanted.audio)


def test_only_the_scenes_of_a_lora_are_rendered_again(model, files):
    keys = [take(model, loras, files, "memory://lora-keys").journal._keys.latents for loras in (
        "[]", "[{file: 1.safetensors, scenes: [1]}]", "[{file: 1.safetensors, scenes: [1], strength: 2}]",
    )]  # fmt: skip
    first = [chunk.index for chunk in take(model, "[]", files, "memory://lora-keys").plan.chunks if chunk.scene == 0]
    assert all(keys[0][index].key == keys[1][index].key == keys[2][index].key for index in first)
    assert len({chain[-1].key for chain in keys}) == 3


def test_a_killed_film_resumes_bit_for_bit(model, files):
    loras = "[{file: 1.safetensors, scenes: [0]}, {file: 2.safetensors, scenes: [1]}]"
    whole = take(model, loras, files, "memory://lora-whole")
    film.render(whole)
    killed = take(model, loras, files, "memory://lora-killed")
    with pytest.raises(KilledError):
        film.render(killed, Recorder(("denoise.chunk", 1)))
    film.render(take(EmbeddedModel.untrained(TINY), loras, files, "memory://lora-killed"))
    assert killed.store.get("film.mp4") == whole.store.get("film.mp4")


def test_two_ranks_render_what_one_does(model, files):
    loras, degrees = "[{file: 1.safetensors}]", Degrees(ulysses=2)
    alone = take(model, loras, files, "memory://lora-alone")
    chunk = alone.plan.chunks[0]
    wanted = acts.denoise(alone, SILENT)(chunk, acts.embed(alone, SILENT)(chunk))

    def act(parallel):
        own = take(EmbeddedModel.untrained(TINY), loras, files, f"memory://lora-rank-{parallel.place}")
        return acts.denoise(own, SILENT, parallel)(chunk, acts.embed(own, SILENT)(chunk))

    first, second = run_threads(act, degrees)
    assert torch.equal(first.video, second.video)
    assert torch.allclose(first.video, wanted.video, rtol=0, atol=1e-5)


def test_noise_levels_and_streams_limit_a_lora(model, files):
    plain = latents(take(model, "[]", files, "memory://lora-off"))
    never = latents(take(model, "[{file: 1.safetensors, noise: [0.01, 0.001]}]", files, "memory://lora-never"))
    assert all(torch.equal(x.video, y.video) for x, y in zip(never, plain, strict=True))
    always = latents(take(model, "[{file: 1.safetensors}]", files, "memory://lora-always"))
    by_level = latents(take(model, "[{file: 1.safetensors, noise: [1, 0]}]", files, "memory://lora-level"))
    assert all(torch.equal(x.video, y.video) for x, y in zip(always, by_level, strict=True))
    sound = take(model, "[{file: 1.safetensors, streams: [audio]}]", files, "memory://lora-audio")
    assert all(".audio" in key for key in sound.loras.parts["transformer"][0].changes)


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        ("[{file: none.safetensors}]", r"loras\[0\].file is .*none.safetensors', which does not exist"),
        ("[{file: other.safetensors}]", r"loras\[0\].file: other.safetensors is a LoRA of another model: tiny has no"),
        ("[{file: 1.safetensors, scenes: [2]}]", r"names scenes \[2\]; the film has scenes 0 to 1"),
        ("[{file: 1.safetensors, strength: 50}]", "use a number from -10 to 10"),
        ("[{file: 1.safetensors, noise: [1]}]", "use two noise levels"),
        ("[{path: 1.safetensors}]", "did you mean|known here"),
    ],
)
def test_a_lora_that_cannot_be_used_is_refused_before_anything_is_rendered(model, files, loras, message):
    save_file({"transformer.nobody.lora_A.weight": torch.ones(2, 3), "transformer.nobody.lora_B.weight": torch.ones(3,
    2)}, files / "other.safetensors")  # fmt: skip
    with pytest.raises(SpecError, match=message):
        take(model, loras, files, "memory://lora-refused")


def test_a_strength_follows_a_colon():
    assert split_strength("style.safetensors:0.8") == ("style.safetensors", 0.8)
    assert split_strength("style.safetensors") == ("style.safetensors", 1.0)
    assert split_strength("https://films/style.safetensors") == ("https://films/style.safetensors", 1.0)
    assert split_strength("style:v2.safetensors") == ("style:v2.safetensors", 1.0)
    with pytest.raises(SpecError, match=r"the strength 'half' is not a number; write style\.safetensors:0\.8"):
        split_strength("style.safetensors:half")
