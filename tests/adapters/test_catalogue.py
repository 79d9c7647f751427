"""The figures of `longtake models` are computed from the networks and match the published layouts."""

import json
from pathlib import Path

import pytest
import torch

from longtake.pipeline.adapters.catalogue import KNOWN
from longtake.pipeline.adapters.presets import RECIPES
from longtake.pipeline.weights.hub import is_hub_id
from longtake.pipeline.weights.licence import LICENCES

BY_NAME = {known.name: known for known in KNOWN}
LAYOUTS = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "wan2_1_t2v_1_3b",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "wan2_1_t2v_14b",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "wan2_2_ti2v_5b",
    "gdhe17/Self-Forcing": "wan2_1_t2v_1_3b",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_model_has_as_many_parameters_as_its_published_files(name):
    layout = json.loads(Path(f"tests/layouts/{LAYOUTS[name]}.json").read_text())
    assert BY_NAME[name].num_parameters == layout["num_parameters"]


def test_both_experts_are_counted():
    one, two = (BY_NAME[f"Wan-AI/Wan2.{name}-Diffusers"] for name in ("1-T2V-14B", "2-T2V-A14B"))
    assert two.num_parameters == 2 * one.num_parameters


@pytest.mark.parametrize(
    ("name", "seen"),
    [("gdhe17/Self-Forcing", 21), ("Efficient-Large-Model/LongLive-1.3B", 12), ("tianweiy/CausVid", 21)],
)
def test_a_causal_model_stores_its_window_and_the_keys_of_its_sink_twice(name, seen):
    known = BY_NAME[name]
    latent = 2 * 30 * 12 * 128 * 1560 * 2  # keys and values, layers, heads, their width, tokens at 480p, bytes
    text = 2 * 30 * 12 * 128 * 512 * 2
    sink = RECIPES[known.recipe].sink * 3 * latent // 2  # unrotated keys
    assert known.kv_bytes((832, 480)) == seen * latent + sink + text


def test_a_bidirectional_model_stores_no_keys():
    assert BY_NAME["Wan-AI/Wan2.1-T2V-14B-Diffusers"].kv_bytes((1280, 720)) == 0


def test_every_model_has_a_valid_name_and_a_licence():
    assert all(is_hub_id(name) for name in BY_NAME)
    assert BY_NAME.keys() <= LICENCES.keys()
    assert {known.recipe for known in KNOWN} - {None} == RECIPES.keys()
    assert {recipe.repository for recipe in RECIPES.values()} <= BY_NAME.keys()
    assert torch.bfloat16.itemsize == 2
