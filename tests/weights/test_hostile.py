"""Models from elsewhere that name files outside of their folder, or ask for more memory than they are worth."""

import json
from dataclasses import asdict
from itertools import count

import fsspec
import pytest
import safetensors.torch
import torch

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.weights.fetch import fetch
from longtake.pipeline.weights.folder import INDEX, read_index
from longtake.pipeline.weights.load import load_model, save_model
from longtake.pipeline.weights.tensors import weight_files
from tests.weights.diffusers_folder import save_folder

_NUMBER = count()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A model folder at a URL, whose listing can be changed."""
    url = f"memory://hostile-{next(_NUMBER)}/model"
    fs = fsspec.filesystem("memory")
    fs.put(f"{save_folder(tmp_path / 'model')}/", url, recursive=True)
    listed = dict(fs.find(url, detail=True))
    monkeypatch.setattr(type(fs), "find", lambda *_, **__: listed)
    return url, listed


@pytest.mark.parametrize(
    "name", ["tokenizer/../../../evil.json", "tokenizer/./evil.json", "tokenizer//evil.json", "tokenizer/..\\evil.json"]
)
def test_a_listing_that_leads_out_of_the_cache_is_refused_before_anything_is_written(served, name, tmp_path):
    url, listed = served
    some = next(iter(listed))
    root = some[: some.index("/model") + len("/model")]
    listed[f"{root}/{name}"] = {**listed[some], "name": some}
    with pytest.raises(WeightsError, match="outside of its copy"):
        fetch(url, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_a_file_that_never_ends_is_cut_off_at_its_stated_size(served, tmp_path):
    url, listed = served
    path = next(path for path in listed if path.endswith(".safetensors"))
    listed[path] = {**listed[path], "size": 10}
    with pytest.raises(WeightsError, match="longer than its 10 bytes"):
        fetch(url, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize("part", ["../secret", "/etc", "a/b", "..", ""])
def test_an_index_names_only_folders_next_to_it(part, tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"_class_name": "WanPipeline", part: ["diffusers", "AutoencoderKLWan"]}))
    with pytest.raises(WeightsError, match="no folder next to it"):
        read_index(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/../../b.safetensors"])
def test_shards_lie_in_their_folder(name, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(WeightsError, match="outside of its folder"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("denoiser", "video_width", 100_000),
        ("denoiser", "num_layers", 10**9),
        ("denoiser", "num_heads", 60_000),
        ("denoiser", "text_width", -1),
        ("video_codec", "coarse_width", 2**16),
        ("sound_codec", "hop", 2**40),
        ("sound_codec", "hop", 4096),
    ],
)
def test_a_header_cannot_ask_for_more_memory_than_its_tensors_need(part, key, value, tmp_path, monkeypatch):
    file = tmp_path / "small.safetensors"
    config = asdict(TINY)
    config[part][key] = value
    tensors = {f"tensor {number}": torch.zeros(1) for number in range(9)}
    safetensors.torch.save_file(tensors, file, {"longtake": json.dumps(config)})
    monkeypatch.setattr(EmbeddedModel, "untrained", None)  # it would allocate
    with pytest.raises(WeightsError, match="architecture in its header"):
        load_model(str(file))


def test_a_model_that_fits_its_header_is_loaded(tmp_path):
    model = EmbeddedModel.untrained(TINY, seed=3)
    save_model(model, str(tmp_path / "tiny.safetensors"))
    assert load_model(str(tmp_path / "tiny.safetensors")).fingerprint() == model.fingerprint()
