"""Every published tensor of Wan has its place in the denoiser, and none is missing."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from pipeline.adapters.wan import WanDenoiser

LAYOUTS = sorted(Path("tests/layouts").glob("wan*.json"))


def read(file: Path) -> tuple[dict, dict[str, list[int]]]:
    """A layout, and the names and shapes of its published tensors."""
    layout = json.loads(file.read_text())
    blocks = range(layout["config"]["num_layers"])
    named = {key.replace("*", str(block)): shape for key, shape in layout["tensors"].items() for block in blocks}
    return layout, named


@pytest.mark.parametrize("file", LAYOUTS, ids=lambda file: file.stem)
def test_the_layout_has_as_many_tensors_and_parameters_as_the_published_files(file):
    layout, published = read(file)
    assert len(published) == layout["num_tensors"]
    assert sum(torch.Size(shape).numel() for shape in published.values()) == layout["num_parameters"]


@pytest.mark.parametrize("file", LAYOUTS, ids=lambda file: file.stem)
def test_every_published_tensor_has_its_place_and_none_is_missing(file):
    layout, published = read(file)
    with torch.device("meta"):
        denoiser = WanDenoiser(WanTransformer3DModel(**layout["config"]))
    ours = {key: list(tensor.shape) for key, tensor in denoiser.state_dict().items()}
    assert ours == {f"wan.{key}": shape for key, shape in published.items()}
