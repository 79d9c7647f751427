"""Offloaded layers are in memory only while they run, and render the same bits."""

import pytest
import torch
from torch import nn

from longtake.actors.load_options import load_options
from longtake.pipeline import acts
from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.save import write_tensors
from longtake.pipeline.weights.tensors import fill

LAYERS, WIDTH = 60, 64


class Deep(nn.Module):
    """Many equal layers; remembers the most bytes of weights that were in memory at once."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.most = 0

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            held = sum(weight.nbytes for weight in self.parameters() if not weight.is_meta)
            self.most = max(self.most, held)
        return x


def deep(folder, load):
    with torch.device("meta"):
        network = Deep()
    return fill(network, folder / "deep.safetensors", load, layers="blocks")


def test_sixty_layers_need_the_memory_of_few(tmp_path):
    torch.manual_seed(0)
    whole = Deep()
    write_tensors(whole.state_dict(), tmp_path / "deep.safetensors")
    x = torch.randn(2, WIDTH)
    plain, away = deep(tmp_path, LoadOptions()), deep(tmp_path, LoadOptions(offload="layers"))
    with torch.inference_mode():
        assert torch.equal(plain(x), away(x))
        assert torch.equal(plain(x), away(x)), "and again"
    total = sum(weight.nbytes for weight in whole.parameters())
    assert away.most <= 0.25 * total + total / LAYERS
    assert all(weight.is_meta for weight in away.parameters())


BOARD = """
model: a
video: {width: 32, height: 16}
sampling: {steps: 2}
scenes: [{prompt: a red circle, duration: 5f}]
"""


def test_an_offloaded_film_has_the_same_bits(tmp_path):
    folder, found = save(tiny_pipeline("2.1"), tmp_path / "wan"), []
    for offload in ("none", "layers", "encoder", "auto"):
        model = open_folder(folder, LoadOptions(offload=offload))
        plan = plan_film(parse_storyboard(BOARD), model)
        conditioning = EmbedStage(model.text, plan)(plan.chunks[0])
        assert ("_encoder" in vars(model.text)) == (offload != "encoder")
        found.append(DenoiseStage(model, plan, lambda _: None)(plan.chunks[0], conditioning).video)
    assert all(torch.equal(found[0], each) for each in found[1:])


@pytest.mark.parametrize("full", [False, True], ids=["low rank", "with biases and DoRA"])
def test_loras_change_offloaded_layers_too(full, tmp_path):
    folder = save(tiny_pipeline("2.1"), tmp_path / "wan")
    layout = open_folder(folder, LoadOptions()).adaptables()["transformer"].layout
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in layout.items():
        layer, _, leaf = name.rpartition(".")
        if name.startswith("blocks") and leaf == "weight" and len(shape) == 2:
            tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(2, shape[1], generator=generator)
            tensors[f"transformer.{layer}.lora_B.weight"] = 0.1 * torch.randn(shape[0], 2, generator=generator)
            if full and "attn1" in name:
                tensors[f"transformer.{layer}.lora_magnitude_vector"] = torch.rand(shape[0], generator=generator)
        if full and name.startswith("blocks") and leaf == "bias":
            tensors[f"transformer.{layer}.diff_b"] = torch.randn(*shape, generator=generator)
    write_tensors(tensors, tmp_path / "lora.safetensors")
    board = BOARD.replace("model: a", f"model: a\nloras: [{{file: {tmp_path}/lora.safetensors, scenes: [1]}}]")
    board = board.replace("5f}]", "5f}, {prompt: a red circle, duration: 5f, transition: cut}]")
    found = []
    for offload in ("none", "layers"):
        model = open_folder(folder, LoadOptions(offload=offload))
        plan = plan_film(parse_storyboard(board), model)
        take = open_take(plan, model, Store(f"memory://offload-{offload}-{full}"), numerics(model))
        embed, denoise = acts.embed(take, SILENT), acts.denoise(take, SILENT)
        found.append([denoise(chunk, embed(chunk)).video for chunk in plan.chunks])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    plain = plan_film(parse_storyboard(BOARD), model)
    detached = open_take(plain, model, Store(f"memory://offload-plain-{full}"), numerics(model))
    first = acts.denoise(detached, SILENT)(plain.chunks[0], acts.embed(detached, SILENT)(plain.chunks[0])).video
    assert torch.equal(first, found[1][0]), "the first scene has no LoRA"


def test_what_does_not_go_together_is_refused(tmp_path):
    write_tensors(Deep().state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(WeightsError, match=r"--offload layers .* --quantize is int8; use one"):
        deep(tmp_path, LoadOptions(offload="layers", quantize="int8"))
    with pytest.raises(SpecError, match="--offload is disk; use auto, none, layers, encoder"):
        load_options(offload="disk")
