"""Folders and repositories as they are published: variants, pickles, tied weights and float8 are opened or refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer

from longtake.pipeline.adapters.pretrained import read_tokenizer
from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from longtake.pipeline.weights.folder import needed
from longtake.pipeline.weights.hub import fetch_hub
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import fill, stored_dtype, weight_files
from tests.weights.diffusers_folder import INDEX, save_folder, save_shards, tensors
from tests.weights.fake_hub import FakeHub

PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"


def build():
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(4, 8, bias=False) for _ in range(4)))


def halves():
    return {key: x.half() for key, x in tensors().items()}


def test_plain_weights_are_preferred_to_a_variant_next_to_them(tmp_path):
    save_file(tensors(), tmp_path / PLAIN)
    save_file(halves(), tmp_path / HALF)
    assert set(weight_files(tmp_path).values()) == {tmp_path / PLAIN}
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors(), HALF)})
    )
    assert set(weight_files(tmp_path).values()) == {tmp_path / PLAIN}


def test_shards_are_preferred_to_the_index_of_a_variant(tmp_path):
    save_shards(tmp_path, tensors())
    save_file(halves(), tmp_path / HALF)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors(), HALF)})
    )
    assert all("fp16" not in file.name for file in weight_files(tmp_path).values())


def test_the_only_variant_is_opened_and_several_are_refused(tmp_path):
    save_file(halves(), tmp_path / HALF)
    assert set(weight_files(tmp_path).values()) == {tmp_path / HALF}
    save_file(halves(), tmp_path / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(WeightsError, match="holds the variants bf16, fp16 and no plain weights; keep one"):
        weight_files(tmp_path)


def test_float8_without_scales_is_rendered_as_bfloat16_and_with_scales_refused(tmp_path):
    small = {key: x.to(torch.float8_e4m3fn) for key, x in tensors().items()}
    save_file(small, tmp_path / PLAIN)
    assert stored_dtype(tmp_path) == torch.bfloat16
    filled = fill(build(), tmp_path, LoadOptions()).state_dict()
    assert all(torch.equal(filled[key], x.to(torch.bfloat16)) for key, x in small.items())
    save_file(small | {"0.scale_weight": torch.ones(1)}, tmp_path / PLAIN)
    with pytest.raises(WeightsError, match=r"8-bit weights with scales \(0.scale_weight\); `longtake convert`"):
        fill(build(), tmp_path, LoadOptions())


def test_a_part_in_pickles_is_refused_before_anything_but_the_index_is_fetched(tmp_path):
    folder = save_folder(tmp_path / "served")
    for file in (folder / "transformer").glob("*.safetensors*"):
        file.unlink()
    torch.save(tensors(), folder / "transformer/diffusion_pytorch_model.bin")
    with FakeHub(folder) as hub:
        with pytest.raises(WeightsError, match=r"transformer/diffusion_pytorch_model.bin is a pickle"):
            fetch_hub("nobody/films", tmp_path / "sums", tmp_path / "cache", hub.url)
        assert hub.fetched == ["model_index.json"]


def test_a_repository_with_one_variant_only_is_fetched(tmp_path):
    folder = save_folder(tmp_path / "served")
    for file in (folder / "transformer").glob("*.safetensors*"):
        file.unlink()
    save_file(halves(), folder / "transformer" / HALF)
    with FakeHub(folder) as hub:
        copy = fetch_hub("nobody/films", tmp_path / "sums", tmp_path / "cache", hub.url)
    assert (copy / "transformer" / HALF).is_file()


def test_a_part_without_files_is_named():
    names = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/spiece.model"]
    with pytest.raises(WeightsError, match=r"films has no transformer, which its model_index.json names"):
        needed(names, INDEX, "films")


def test_a_umt5_without_its_shared_embedding_is_opened(tmp_path):
    folder = save(tiny_pipeline("2.1"), tmp_path / "wan")
    file = next((folder / "text_encoder").glob("*.safetensors"))
    held = load_file(file)
    wanted = open_folder(folder, LoadOptions()).text.embed("a red circle")
    embedding = held.pop("shared.weight") if "shared.weight" in held else held["encoder.embed_tokens.weight"]
    save_file({**held, "encoder.embed_tokens.weight": embedding.clone()}, file, {"format": "pt"})
    assert torch.equal(open_folder(folder, LoadOptions()).text.embed("a red circle"), wanted)


def test_a_missing_sentencepiece_is_named(tmp_path, monkeypatch):
    def needs(*_, **__):
        raise ImportError("T5Tokenizer requires the sentencepiece library but it was not found in your environment.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", needs)
    monkeypatch.setattr("longtake.pipeline.adapters.pretrained.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"needs the package sentencepiece.*: pip install sentencepiece"):
        read_tokenizer(tmp_path)
