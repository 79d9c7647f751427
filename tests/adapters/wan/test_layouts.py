"""Every published tensor of Wan matches a parameter of a network, and none is missing."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.adapters.wan.video_codec import WanVideoCodec

LAYOUTS = sorted(Path("tests/layouts").glob("wan*.json"))
of_every_layout = pytest.mark.parametrize("file", LAYOUTS, ids=lambda file: file.stem)


def read(file: Path) -> tuple[dict, dict[str, list[int]]]:
    """A layout, and the names and shapes of its published tensors."""
    layout = json.loads(file.read_text())
    blocks = range(layout["config"].get("num_layers", 1))
    named = {key.replace("*", str(block)): shape for key, shape in layout["tensors"].items() for block in blocks}
    return layout, named


@of_every_layout
def test_the_layout_has_as_many_tensors_and_parameters_as_the_published_files(file):
    layout, published = read(file)
    assert len(published) == layout["num_tensors"]
    assert sum(torch.Size(shape).numel() for shape in published.values()) == layout["num_parameters"]


def network_of(layout: dict) -> nn.Module:
    """The network for a layout's tensors, as the adapters build it."""
    config, kind = layout["config"], layout.get("network", "WanTransformer3DModel")
    with torch.device("meta"):
        if kind == "UMT5EncoderModel":
            return UMT5EncoderModel(UMT5Config(**config))
        if kind == "AutoencoderKLWan":
            return WanVideoCodec(AutoencoderKLWan(**config)).vae
        return WanDenoiser(WanTransformer3DModel(**config)).wan


@of_every_layout
def test_every_published_tensor_matches_a_parameter_and_none_is_missing(file):
    layout, published = read(file)
    ours = {key: list(tensor.shape) for key, tensor in network_of(layout).state_dict().items()}
    assert layout.get("tied") not in published
    ours.pop(layout.get("tied"), None)
    assert ours == {key: shape for key, shape in published.items() if layout.get("unused", "?") not in key}


def test_the_loader_accepts_exactly_the_known_differences():
    layout, published = read(Path("tests/layouts/wan2_1_i2v_14b.json"))
    assert sum(layout["unused"] in key for key in published) == 40
    assert WanTransformer3DModel._keys_to_ignore_on_load_unexpected == [layout["unused"]]
    tied = read(Path("tests/layouts/wan_umt5_xxl.json"))[0]["tied"]
    assert UMT5EncoderModel._tied_weights_keys.keys() == {tied}
