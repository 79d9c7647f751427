"""Prompts are embedded once for all renders of a take, before the first chunk is denoised."""

import json

import pytest
import torch

from longtake.pipeline import acts
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.clean import clean
from longtake.pipeline.journal.store import Store
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from tests.tiny_take import render, take_in

BOARD = """
model: a
video: {width: 32, height: 16}
sampling: {steps: 1}
scenes:
- {prompt: a red circle, duration: 5f}
- {prompt: a blue circle, duration: 5f, transition: cut}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tiny_pipeline("2.1"), tmp_path_factory.mktemp("wan"))


def embed_of(folder, store):
    model = open_model(str(folder))
    take = open_take(plan_film(parse_storyboard(BOARD), model), model, Store(store), numerics(model))
    return take, acts.embed(take, SILENT)


def tokens(conditioning):
    return {branch: prompt.tokens for branch, prompt in conditioning.prompts.items()}


def test_all_scenes_are_embedded_before_the_first_chunk_and_the_encoder_is_released(folder):
    take, embed = embed_of(folder, "memory://embed-ahead")
    embed(take.plan.chunks[0])
    assert len([name for name in take.store.list("journal/prompts") if name.endswith(".json")]) == 3
    assert "_encoder" not in vars(take.model.text)
    assert "loaded" not in vars(take.model.denoiser), "the denoiser is opened later"


def test_a_render_that_resumes_reads_the_same_bits_and_opens_no_encoder(folder, monkeypatch):
    take, embed = embed_of(folder, "memory://embed-resumed")
    first = [tokens(embed(chunk)) for chunk in take.plan.chunks]
    take, embed = embed_of(folder, "memory://embed-resumed")
    monkeypatch.setattr(take.model.text, "_load_encoder", lambda: pytest.fail("the encoder is opened"))
    for chunk, expected in zip(take.plan.chunks, first, strict=True):
        found = tokens(embed(chunk))
        assert all(torch.equal(found[branch], expected[branch]) for branch in expected)


def test_a_resumed_film_embeds_only_the_scenes_that_are_left(folder):
    take, embed = embed_of(folder, "memory://embed-left")
    embed(take.plan.chunks[1])
    texts = [manifest["prompt"] for manifest in manifests(take.store)]
    assert "a blue circle" in texts
    assert "a red circle" not in texts


@pytest.mark.parametrize("change", ["other weights", "damaged"])
def test_what_was_kept_for_other_numerics_or_is_damaged_is_embedded_again(folder, change, monkeypatch):
    store = f"memory://embed-{change.replace(' ', '-')}"
    take, embed = embed_of(folder, store)
    embed(take.plan.chunks[0])
    if change == "damaged":
        name = next(name for name in take.store.list("journal/prompts") if name.endswith(".safetensors"))
        take.store.put(name, b"?")
    elif change == "other weights":
        monkeypatch.setattr(type(take.model), "fingerprint", lambda _: "others")
    take, embed = embed_of(folder, store)
    embedded, encode = [], take.model.text.embed
    monkeypatch.setattr(take.model.text, "embed", lambda prompt: embedded.append(prompt) or encode(prompt))
    for chunk in take.plan.chunks:
        embed(chunk)
    assert len(embedded) == (1 if change == "damaged" else 3)


def manifests(store):
    return [json.loads(store.get(name)) for name in store.list("journal/prompts") if name.endswith(".json")]


def test_cleaning_keeps_the_prompts_of_the_film_and_removes_others(tmp_path):
    store = Store(str(tmp_path))
    render(store)
    kept = set(store.list("journal/prompts"))
    assert kept
    take_in(store).prompts([]).keep("a prompt of an earlier storyboard", 0, torch.ones(1, 2))
    store.put("journal/prompts/0123456789abcdef-0123456789abcdef.safetensors", b"left by a kill")
    assert len(clean(store)) >= 3
    assert set(store.list("journal/prompts")) == kept
