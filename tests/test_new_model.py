"""The worked example of docs/new-model.md runs as written, and each stage loads only the parts that it needs."""

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from longtake.pipeline import acts, film, registry
from longtake.pipeline.adapters import open as opening
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.save import save_shards

PARTS = ("text", "denoiser", "video_codec", "sound_codec")
WISH = """
model: {name}
video: {{width: 64, height: 64, fps: 16}}
audio: {{sample_rate: 16000}}
sampling: {{steps: 1}}
scenes: [{{prompt: a red circle bounces fast, duration: 2.5s}}]
"""


def example() -> str:
    return re.findall(r"```python\n(.*?)```", Path("docs/new-model.md").read_text(), re.DOTALL)[0]


def save(model: EmbeddedModel, folder: Path) -> Path:
    """A model in diffusers' format, in float64, so that what is loaded as float32 is a copy and not mapped."""
    config = model.config
    parts = {
        "text_encoder": (model.text, {}),
        "transformer": (model.denoiser, asdict(config.denoiser)),
        "vae": (model.video_codec, asdict(config.video_codec)),
        "audio_vae": (model.sound_codec, asdict(config.sound_codec)),
    }
    for part, (network, settings) in parts.items():
        tensors = {key: x.double() if x.is_floating_point() else x for key, x in network.state_dict().items()}
        save_shards(tensors, folder / part, shard_bytes=100_000)
        (folder / part / "config.json").write_text(json.dumps(settings))
    index = {"_class_name": "AuroraPipeline", **{part: ["diffusers", "Aurora"] for part in parts}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved model, whose family is the example."""
    (tmp_path / "aurora_model.py").write_text(example())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "FAMILIES", {"AuroraPipeline": "aurora_model:open_folder"})
    return save(EmbeddedModel.untrained(TINY), tmp_path / "aurora")


@pytest.fixture
def take(folder, tmp_path):
    load = LoadOptions(torch.float32, cache=tmp_path / "cache")
    model = opening.open_model(str(folder), load)
    storyboard = parse_storyboard(WISH.format(name=folder))
    return open_take(plan_film(storyboard, model), model, Store(str(tmp_path / "out")), numerics(model, load=load))


def loaded(model):
    return [part for part in PARTS if "loaded" in vars(getattr(model, part))]


def test_the_example_renders_the_film_of_the_networks_that_it_is_made_of(take, tmp_path):
    model = EmbeddedModel.untrained(TINY)
    storyboard = parse_storyboard(WISH.format(name="tiny"), ["sampling.guidance=1"])
    same = open_take(plan_film(storyboard, model), model, Store(str(tmp_path / "same")), numerics(model))
    for one in (take, same):
        film.render(one)
    for chunk, twin in zip(take.plan.chunks, same.plan.chunks, strict=True):
        assert torch.equal(take.journal.latents(chunk).video, same.journal.latents(twin).video)
        assert torch.equal(take.journal.latents(chunk).audio, same.journal.latents(twin).audio)
    assert loaded(take.model) == list(PARTS)
    assert take.numerics["weights"] != same.numerics["weights"], "one is a folder's, one the tensors'"


def test_an_act_loads_its_own_part_and_planning_loads_none(take, folder, tmp_path):
    chunk = take.plan.chunks[0]
    assert loaded(take.model) == []
    prompts = acts.embed(take, SILENT)(chunk)
    assert loaded(take.model) == ["text"]

    def another():
        model = opening.open_model(str(folder), LoadOptions(torch.float32, cache=tmp_path / "cache"))
        return open_take(plan_film(take.plan.storyboard, model), model, take.store, take.numerics)

    rank, decoder, encoder = another(), another(), another()
    latents = acts.denoise(rank, SILENT)(chunk, prompts)
    assert loaded(rank.model) == ["denoiser"]
    frames, sound = acts.decode(decoder, SILENT)(latents)
    assert loaded(decoder.model) == ["video_codec", "sound_codec"]
    acts.encode(encoder, SILENT)(frames, sound)
    assert loaded(encoder.model) == []
