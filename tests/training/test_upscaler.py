from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from longtake.jobs.ship import ship
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.models.upscaler import TINY_UPSCALER, Upscaler
from longtake.pipeline.training import textures
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.tasks import build_task
from longtake.pipeline.training.upscaler import UpscalerTask, change_along
from longtake.pipeline.weights.load import load_model, load_upscaler, save_model

OPTIONS = {"drawn": 3, "photographs": False, "chunks": 2, "patch": 16}


def task(**options) -> UpscalerTask:
    spec = TrainSpec(
        stage="upscaler", steps=10, batch_size=2, lr=1e-3, model="tiny-upscaler", options={**OPTIONS, **options}
    )
    built = build_task(spec)
    assert isinstance(built, UpscalerTask)
    return built


def test_a_batch_is_the_same_for_one_worker_as_for_two():
    whole, second = task().draw(3, 4, 0, 2), task().draw(3, 4, 1, 1)
    for name in ("small", "truth"):
        assert torch.equal(whole[name][1:], second[name])
    assert torch.equal(whole["hidden"], second["hidden"])


def test_steps_cycle_through_the_scales():
    training = task()
    sides = [training.draw(0, step, 0, 1)["truth"].shape[2:] for step in range(3)]
    assert [tuple(side) for side in sides] == [(3, 32, 32), (3, 64, 64), (3, 32, 32)]


def test_chunks_are_hidden_from_each_other_in_the_given_share_of_steps():
    training = task(hidden=0.5, patch=2)
    hidden = [bool(training.draw(0, step, 0, 1)["hidden"]) for step in range(30)]
    assert 8 <= sum(hidden) <= 22


@pytest.mark.parametrize("scale", [2, 4])
def test_a_hidden_past_is_an_empty_store(scale):
    training = task(still=0)
    model, batch = training.objective.model.double(), training.draw(0, scale // 4, 0, 1)
    batch = {**batch, **{name: batch[name].double() / 2 + 0.25 for name in ("small", "truth")}}  # nothing to clamp
    small, truth = batch["small"][0], batch["truth"][0]
    state, large = model.start(scale, *small.shape[2:]), []
    for chunk in small.split(model.chunk_frames):
        for store in state.stores:
            store.reset()
        large.append(model(chunk, state))
    for hidden, equal in ((True, True), (False, False)):
        with torch.no_grad():
            psnr_db = training.objective({**batch, "hidden": torch.tensor(hidden)})["psnr_db"]
        expected = -10 * (torch.cat(large) - truth).square().mean().log10()
        assert (abs(psnr_db - expected) < 1e-6) == equal


def test_the_loss_falls_and_the_trained_model_is_saved(tmp_path):
    torch.manual_seed(0)
    training = task()
    batch = training.draw(0, 0, 0, 2)
    optimizer = torch.optim.Adam(training.objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = training.objective(batch)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    model = task().finished(training.objective.state_dict())
    assert model.config.trained
    training.sample(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"upscaled-x2.png", "upscaled-x4.png"}
    url = str(tmp_path / "model.safetensors")
    save_model(model, url)
    loaded = load_upscaler(url)
    assert loaded.config == model.config
    assert loaded.fingerprint() == model.fingerprint()


def test_every_weight_gets_a_gradient():
    training = task()
    for step in range(2):  # a head per scale
        training.objective(training.draw(0, step, 0, 1))["loss"].backward()
    assert [name for name, weight in training.objective.named_parameters() if weight.grad is None] == []


def test_clips_differ_by_their_key_and_move():
    pictures = textures.MovingPictures(textures.MotionOptions(drawn=3, photographs=False, still=0), seed=0)
    one, again, other = (pictures.draw(key, 6, 32).frames for key in ((0, 1, 2), (0, 1, 2), (0, 1, 3)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.isfinite().all()
    assert 0 <= one.min() <= one.max() <= 1
    clips = [pictures.draw((0, n), 6, 32).frames for n in range(20)]
    assert sum(float((clip[1:] - clip[:-1]).abs().mean()) > 1e-3 for clip in clips) > 10


def test_change_along_the_motion_is_zero_for_moving_pixels():
    rng = np.random.default_rng(0)
    coarse = torch.rand(1, 3, 12, 15, generator=torch.Generator().manual_seed(0))
    smooth = functional.interpolate(coarse, size=(120, 150), mode="bicubic")[0]
    for _ in range(20):
        path = textures._draw_path(rng, 6, textures.MotionOptions(still=0))
        window = textures.Window.on(smooth, path, 48)
        clip = window.show(smooth)
        along = change_along(clip[None], window.steps()[None]).square().mean()
        across = (clip[1:] - clip[:-1]).square().mean()
        assert along < 0.1 * across or across < 1e-5


def test_a_missing_package_is_named_with_the_fix(monkeypatch):
    monkeypatch.setattr(textures, "PICTURES", {"no-such-pictures": ("a.png",)})
    with pytest.raises(SpecError, match=r"a.png comes with no-such-pictures, which is not installed; pip install"):
        task(photographs=True)


def test_a_photograph_missing_from_its_package_is_named(monkeypatch):
    monkeypatch.setattr(textures, "PICTURES", {"numpy": ("numpy/astronaut.png",)})
    with pytest.raises(SpecError, match=r"numpy [0-9.]+ lacks numpy/astronaut.png"):
        task(photographs=True)


def test_unknown_options_and_models_are_reported_with_the_known_ones():
    with pytest.raises(SpecError, match=r"options.pach is not an option of this stage; it has .*patch"):
        task(pach=3)
    with pytest.raises(SpecError, match="model is 'sounding-shapes'; this stage trains upscaler or tiny-upscaler"):
        build_task(TrainSpec(stage="upscaler", steps=1, batch_size=1, lr=0.1))


def test_film_models_and_upscalers_are_not_mistaken_for_each_other(tmp_path):
    url = str(tmp_path / "model.safetensors")
    save_model(Upscaler.untrained(TINY_UPSCALER), url)
    with pytest.raises(WeightsError, match="is not a longtake model"):
        load_model(url)
    save_model(load_model("tiny"), url)
    with pytest.raises(WeightsError, match="is not a longtake upscaler"):
        load_upscaler(url)
    with pytest.raises(WeightsError, match="upscaler is 'upscale'; use upscaler or tiny-upscaler"):
        load_upscaler("upscale")


def test_a_shipped_upscaler_is_found_by_its_name(tmp_path, monkeypatch):
    model = Upscaler.untrained(replace(TINY_UPSCALER, chunk_frames=2), seed=5)
    save_model(model, str(tmp_path / "model.safetensors"))
    monkeypatch.setattr("longtake.pipeline.weights.__path__", [str(tmp_path)])
    path = ship(str(tmp_path / "model.safetensors"), "upscaler")
    assert path == tmp_path / "tiny-upscaler.safetensors"
    shipped = load_upscaler(str(path))
    assert shipped.config == replace(model.config, trained=True)
    for old, new in zip(model.parameters(), shipped.parameters(), strict=True):
        assert new.dtype == torch.float32
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-6)
