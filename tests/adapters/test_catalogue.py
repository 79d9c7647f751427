"""The figures of `longtake models` match the published layouts and the built-in networks."""

import json
from pathlib import Path

import pytest
import torch

from longtake.pipeline.adapters.catalogue import KNOWN
from longtake.pipeline.adapters.presets import RECIPES
from longtake.pipeline.plan import kv_bytes, plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.weights.hub import is_hub_id
from longtake.pipeline.weights.licence import LICENCES
from longtake.pipeline.weights.load import EMBEDDED, load_model

BY_NAME = {known.name: known for known in KNOWN}
LAYOUTS = {  # of the denoiser, the text encoder and the codecs
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": ("wan2_1_t2v_1_3b", "wan_umt5_xxl", "wan2_1_vae"),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": ("wan2_1_t2v_14b", "wan_umt5_xxl", "wan2_1_vae"),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": ("wan2_1_i2v_14b", "wan_umt5_xxl", "wan2_1_vae"),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": ("wan2_2_ti2v_5b", "wan_umt5_xxl", "wan2_2_vae"),
    "gdhe17/Self-Forcing": ("wan2_1_t2v_1_3b", "wan_umt5_xxl", "wan2_1_vae"),
}


def published(layout):
    return json.loads(Path(f"tests/layouts/{layout}.json").read_text())["num_parameters"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_part_of_a_model_has_as_many_parameters_as_its_published_files(name):
    parts = BY_NAME[name].parts
    assert [parts[part] for part in ("denoiser", "text encoder", "codecs")] == [*map(published, LAYOUTS[name])]


def test_the_connectors_of_ltx_2_belong_to_its_text_encoder_and_the_vocoder_to_its_codecs():
    parts = BY_NAME["Lightricks/LTX-2"].parts
    assert parts["denoiser"] == published("ltx2_transformer")
    assert parts["text encoder"] - published("ltx2_connectors") == 12_187_325_040, "Gemma 3 12B"
    assert parts["codecs"] == sum(map(published, ("ltx2_vae", "ltx2_audio_vae", "ltx2_vocoder")))


def test_both_experts_are_counted():
    one, two = (BY_NAME[f"Wan-AI/Wan2.{name}-Diffusers"] for name in ("1-T2V-14B", "2-T2V-A14B"))
    assert two.parts["denoiser"] == 2 * one.parts["denoiser"]
    assert BY_NAME["Wan-AI/Wan2.2-I2V-A14B-Diffusers"].parts["denoiser"] == 2 * published("wan2_2_i2v_a14b")


@pytest.mark.parametrize("name", EMBEDDED)
def test_built_in_models_are_counted_as_they_are_built(name):
    known, model = BY_NAME[name], load_model(name)
    video, sound = (sum(map(torch.numel, part.parameters())) for part in (model.video_codec, model.sound_codec))
    assert known.parts["denoiser"] == sum(map(torch.numel, model.denoiser.parameters()))
    assert known.parts["codecs"] == video + sound
    assert known.num_parameters == sum(map(torch.numel, model.parameters()))
    storyboard = parse_storyboard(
        f"{{model: {name}, sampling: {{guidance: 1}}, scenes: [{{prompt: a red circle rests, duration: 60s}}]}}"
    )
    size = (model.defaults.width, model.defaults.height)
    assert known.kv_bytes == {size: kv_bytes(plan_film(storyboard, model), model)}
    assert known.item_bytes == model.dtype.itemsize


@pytest.mark.parametrize(
    ("name", "seen"),
    [("gdhe17/Self-Forcing", 21), ("Efficient-Large-Model/LongLive-1.3B", 12), ("tianweiy/CausVid", 21)],
)
def test_a_causal_model_stores_its_window_and_the_keys_of_its_sink_twice(name, seen):
    known = BY_NAME[name]
    latent = 2 * 30 * 12 * 128 * 1560 * 2  # keys and values, layers, heads, their width, tokens at 480p, bytes
    text = 2 * 30 * 12 * 128 * 512 * 2
    sink = RECIPES[known.recipe].sink * 3 * latent // 2  # unrotated keys
    assert known.kv_bytes[832, 480] == seen * latent + sink + text


def test_a_bidirectional_model_stores_no_keys():
    assert BY_NAME["Wan-AI/Wan2.1-T2V-14B-Diffusers"].kv_bytes[1280, 720] == 0


def test_every_model_has_a_valid_name_and_a_licence():
    open_weights = BY_NAME.keys() - EMBEDDED.keys()
    assert all(is_hub_id(name) for name in open_weights)
    assert open_weights <= LICENCES.keys()
    assert {known.recipe for known in KNOWN} - {None} == RECIPES.keys()
    assert {recipe.repository for recipe in RECIPES.values()} <= BY_NAME.keys()
    assert torch.bfloat16.itemsize == 2
