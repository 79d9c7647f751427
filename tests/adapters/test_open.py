"""A model is opened by its name, and errors list the valid names."""

import json
import sys
from types import ModuleType

import fsspec
import pytest
import torch

from longtake.pipeline import registry
from longtake.pipeline.adapters import open as opening
from longtake.pipeline.adapters.open import open_model, terms
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.weights.load import save_model
from longtake.pipeline.weights.options import LoadOptions
from tests.weights.diffusers_folder import save_folder
from tests.weights.fake_hub import FakeHub


@pytest.fixture
def load(tmp_path):
    return LoadOptions(cache=tmp_path / "cache")


@pytest.fixture
def family(monkeypatch):
    """A family whose `open_folder` returns its arguments."""
    module = ModuleType("nobodys_family")
    module.__spec__ = sys.__spec__
    module.open_folder = lambda folder, load: (folder, load)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "FAMILIES", {"NobodysPipeline": f"{module.__name__}:open_folder"})


@pytest.mark.parametrize("name", ["tiny", "{tmp}/model.safetensors", "file://{tmp}/model.safetensors"])
def test_an_embedded_model_a_file_and_a_url_of_it_are_the_same(tmp_path, load, name):
    save_model(EmbeddedModel.untrained(TINY), f"{tmp_path}/model.safetensors")
    assert open_model(name.format(tmp=tmp_path), load).fingerprint() == open_model("tiny").fingerprint()


def test_an_embedded_model_gets_the_requested_dtype():
    assert open_model("tiny", LoadOptions(dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert open_model("tiny").dtype == torch.float32


def test_an_embedded_model_is_quantized_on_request():
    pytest.importorskip("torchao")
    model = open_model("tiny", LoadOptions(quantize="int8"))
    assert "Int8Tensor" in {type(weight.data).__name__ for weight in model.denoiser.parameters()}
    assert {type(weight.data) for weight in model.video_codec.parameters()} == {torch.Tensor}
    assert model.fingerprint() != open_model("tiny").fingerprint()


@pytest.mark.usefixtures("family")
def test_a_folder_is_opened_by_the_family_that_its_index_names(tmp_path, load):
    folder = save_folder(tmp_path / "model")
    assert open_model(str(folder), load) == (folder, load)


@pytest.mark.usefixtures("family")
def test_a_folder_at_a_url_is_opened_from_the_cache(tmp_path, load):
    folder = save_folder(tmp_path / "model")
    fsspec.filesystem("memory").put(f"{folder}/", "memory://opened/model", recursive=True)
    opened, _ = open_model("memory://opened/model", load)
    assert opened.is_relative_to(load.cache)
    assert (opened / "model_index.json").read_bytes() == (folder / "model_index.json").read_bytes()


@pytest.mark.usefixtures("family")
def test_a_repository_is_opened_from_hugging_faces_cache(tmp_path, load, monkeypatch):
    with FakeHub(save_folder(tmp_path / "served")) as hub:
        fetch_hub = opening.fetch_hub
        monkeypatch.setattr(opening, "fetch_hub", lambda name, cache: fetch_hub(name, cache, tmp_path / "hub", hub.url))
        opened, _ = open_model("nobody/films@v1", load)
    assert (opened / "transformer/config.json").is_file()


@pytest.mark.usefixtures("family")
def test_a_local_folder_takes_precedence_over_a_repository(tmp_path, load, monkeypatch):
    save_folder(tmp_path / "nobody/films")
    monkeypatch.chdir(tmp_path)
    opened, _ = open_model("nobody/films", load)
    assert str(opened) == "nobody/films"


@pytest.mark.usefixtures("family")
def test_only_licences_that_forbid_commercial_use_have_terms(tmp_path, load):
    folder = save_folder(tmp_path / "model")
    assert terms("tiny", load) is None
    assert terms(str(folder), load) is None, "apache-2.0"
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert terms(str(folder), load) == f"{folder}: its licence, cc-by-nc-4.0, forbids commercial use"


def test_an_unknown_family_is_refused_with_the_supported_ones(tmp_path, load):
    with pytest.raises(WeightsError, match="is a NobodysPipeline, which is not supported; use one of WanPipeline"):
        open_model(str(save_folder(tmp_path / "model")), load)


@pytest.mark.usefixtures("family")
def test_a_folder_with_a_missing_or_damaged_part_is_refused_before_it_is_opened(tmp_path, load):
    folder = save_folder(tmp_path / "model")
    shard = folder / "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"00002-of-00002\.safetensors is damaged or truncated"):
        open_model(str(folder), load)
    (folder / "transformer/config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"transformer/config\.json cannot be read as JSON"):
        open_model(str(folder), load)
    (folder / "tokenizer/spiece.model").unlink()
    (folder / "tokenizer").rmdir()
    (folder / "transformer").rename(folder / "elsewhere")
    with pytest.raises(WeightsError, match=r"has no tokenizer, which its model_index\.json names; fetch the model"):
        open_model(str(folder), load)


def test_a_family_missing_from_this_version_is_reported(tmp_path, load, monkeypatch):
    monkeypatch.setattr(
        registry, "FAMILIES", {"NobodysPipeline": "longtake.pipeline.adapters.nobodys_model:open_folder"}
    )
    with pytest.raises(WeightsError, match=r"lacks longtake\.pipeline\.adapters\.nobodys_model"):
        open_model(str(save_folder(tmp_path / "model")), load)


def test_every_family_is_a_pipeline_that_diffusers_has():
    import diffusers

    assert all(hasattr(diffusers, kind) for kind in registry.FAMILIES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sounding-shape",
            "model is 'sounding-shape'; use sounding-shapes or tiny or second-world, .*a Hugging Face repository",
        ),
        ("a/b/c", "model is 'a/b/c'; use"),
        ("checkpoint.pt", "is a pickle.*longtake convert checkpoint.pt OUT"),
        ("none.safetensors", "cannot be read"),
        ("memory://nowhere/model", "has no model_index.json"),
    ],
)
def test_an_invalid_name_is_refused_with_the_fix(name, message, load):
    with pytest.raises(WeightsError, match=message):
        open_model(name, load)


@pytest.mark.parametrize("index", ["{", "[]", "{}", json.dumps({"_class_name": 3})])
def test_a_damaged_index_is_named(tmp_path, load, index):
    (save_folder(tmp_path / "model") / "model_index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"model_index\.json is not a model index"):
        open_model(str(tmp_path / "model"), load)


def test_a_folder_without_an_index_is_refused(tmp_path, load):
    with pytest.raises(WeightsError, match="is not a model in diffusers' format"):
        open_model(str(tmp_path), load)
