"""The tensors of LTX-2's full-size layouts match the networks that the adapters build, without a missing one."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from torch import nn

from longtake.pipeline.adapters.ltx2.codecs import LTX2SoundCodec, LTX2VideoCodec
from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser, sites
from longtake.pipeline.attention.kv_plan import KVPlan, store_bytes

LAYOUTS = sorted(Path("tests/layouts").glob("ltx2*.json"))
of_every_layout = pytest.mark.parametrize("file", LAYOUTS, ids=lambda file: file.stem)


def read(file: Path) -> tuple[dict, dict[str, list[int]]]:
    """A layout, and the names and shapes of its tensors."""
    layout = json.loads(file.read_text())
    blocks = range(layout["config"].get("num_layers", 1))
    named = {key.replace("*", str(block)): shape for key, shape in layout["tensors"].items() for block in blocks}
    return layout, named


def network_of(layout: dict) -> nn.Module:
    """The network for a layout's tensors, as the adapters build it."""
    config = layout["config"]
    with torch.device("meta"):
        match layout["network"]:
            case "LTX2VideoTransformer3DModel":
                return LTX2Denoiser(LTX2VideoTransformer3DModel(**config)).ltx
            case "AutoencoderKLLTX2Video":
                return LTX2VideoCodec(AutoencoderKLLTX2Video(**config)).vae
            case "AutoencoderKLLTX2Audio":
                return LTX2SoundCodec(AutoencoderKLLTX2Audio(**config), LTX2Vocoder()).vae
            case "LTX2Vocoder":
                return LTX2SoundCodec(AutoencoderKLLTX2Audio(), LTX2Vocoder(**config)).vocoder
            case _:
                return LTX2TextConnectors(**config)


@of_every_layout
def test_every_tensor_matches_a_parameter_and_none_is_missing(file):
    layout, published = read(file)
    assert len(published) == layout["num_tensors"]
    assert sum(torch.Size(shape).numel() for shape in published.values()) == layout["num_parameters"]
    assert {key: list(tensor.shape) for key, tensor in network_of(layout).state_dict().items()} == published


def test_a_chunk_of_the_full_size_has_a_cache_of_a_known_size():
    config = read(Path("tests/layouts/ltx2_transformer.json"))[0]["config"]
    config |= {"patch_size": 1}
    kinds = sites(config, (16, 24), 3, 26, 1024)  # a second of 768x512
    assert [site.num_heads * site.head_dim for site in kinds] == [4096, 2048, 4096, 2048, 2048, 2048]
    once = store_bytes(kinds, KVPlan(1), branches=("guided",), item_bytes=2)
    tokens = {"video": 2 * 3 * 384, "audio": 2 * 26}
    widths = {"video": 4096 + 2048, "audio": 2048 + 2048}
    prompts = 1024 * (4096 + 2048)
    assert once == 48 * 2 * 2 * (sum(tokens[name] * widths[name] for name in tokens) + prompts)
