from dataclasses import replace

import pytest
import safetensors.torch
import torch

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.weights import load
from longtake.pipeline.weights.load import load_model, save_model


@pytest.mark.parametrize("place", ["{tmp}/model.safetensors", "memory://weights/model.safetensors"])
def test_a_saved_model_comes_back_with_its_configuration_and_bits(place, tmp_path):
    model = EmbeddedModel.untrained(replace(TINY, trained=True, window=5), seed=3)
    url = place.format(tmp=tmp_path)
    save_model(model, url)
    loaded = load_model(url)
    assert loaded.config == model.config
    assert loaded.kv_plan == model.kv_plan
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_untrained_weights_depend_only_on_the_seed():
    one, _, again = EmbeddedModel.untrained(TINY, 1), torch.rand(5), EmbeddedModel.untrained(TINY, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    other = EmbeddedModel.untrained(TINY, 2)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_loading_does_not_touch_the_global_random_state():
    before = torch.get_rng_state()
    load_model("tiny")
    assert torch.equal(before, torch.get_rng_state())


def test_shipped_models_load_without_the_check_for_files_of_others(monkeypatch):
    monkeypatch.setattr(load, "_check_fit", pytest.fail)
    assert load_model("sounding-shapes").config.trained
    load.load_upscaler("upscaler")


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(WeightsError, match="'sounding-shape'; use sounding-shapes or tiny or second-world"):
        load_model("sounding-shape")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(f"{tmp_path}/none.safetensors")


def test_a_truncated_file_is_refused(tmp_path):
    save_model(EmbeddedModel.untrained(TINY), f"{tmp_path}/model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="is not a longtake model"):
            load_model(f"{tmp_path}/cut.safetensors")


def test_foreign_tensors_are_refused(tmp_path):
    (tmp_path / "foreign.safetensors").write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="is not a longtake model"):
        load_model(f"{tmp_path}/foreign.safetensors")


def test_weights_of_another_shape_are_refused(tmp_path):
    model = EmbeddedModel.untrained(TINY)
    model.config = replace(TINY, window=2, denoiser=replace(TINY.denoiser, num_layers=3))
    save_model(model, f"{tmp_path}/model.safetensors")
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        load_model(f"{tmp_path}/model.safetensors")
