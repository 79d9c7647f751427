"""`--dry-run` counts what weights need from their headers, before anything is loaded."""

import json

import pytest
import torch
from rich.console import Console

from longtake.jobs.dry_run import plan_card, print_plan
from longtake.pipeline.adapters.open import open_folder
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from longtake.pipeline.weights import memory
from longtake.pipeline.weights.options import LoadOptions

BOARD = """
model: a
video: {width: 32, height: 16}
sampling: {steps: 2}
scenes: [{prompt: a red circle, duration: 5f}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tiny_pipeline("2.1"), tmp_path_factory.mktemp("memory") / "wan")


def printed(folder, load, capsys):
    model = open_folder(folder, load)
    plan = plan_film(parse_storyboard(BOARD), model)
    print_plan(plan, model, Degrees(), Console(width=10_000), load)
    rows = capsys.readouterr().out.splitlines()
    return next(row for row in rows if "memory" in row), next(row for row in rows if "expected" in row), model


def test_what_fits_is_told_and_timed(folder, capsys):
    row, expected, model = printed(folder, LoadOptions(), capsys)
    assert "it fits" in row
    assert "of denoising and decoding" in expected
    counted = model.part_bytes()["transformer"].total
    assert counted == sum(weight.nbytes for weight in model._denoisers[0].loaded.parameters())


def test_what_does_not_fit_is_told_with_what_offloading_costs_and_nothing_is_loaded(folder, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    row, expected, model = printed(folder, LoadOptions(dtype=torch.bfloat16), capsys)
    part = model.part_bytes()["transformer"]
    assert "it does not fit; --offload layers would keep" in row
    assert f"read {part.layers / 2**20:.1f} MiB for each pass" in row
    assert "not timed, because the weights do not fit" in expected
    assert "loaded" not in vars(model._denoisers[0])
    card = plan_card(plan_film(parse_storyboard(BOARD), model), model, Degrees(), LoadOptions(dtype=torch.bfloat16))
    assert json.loads(json.dumps(card))["fits"] is False
    assert card["expected_s"] is None


def test_auto_offloads_what_does_not_fit(folder, monkeypatch):
    model = open_folder(folder, LoadOptions())
    whole, part = model.part_bytes(), model.part_bytes()["transformer"]
    monkeypatch.setattr(memory, "free_bytes", lambda _: part.total)
    need = memory.memory_need(model, LoadOptions(offload="auto"), kv=0)
    assert need.read == part.layers
    assert need.held == need.total - part.total + part.offloaded
    assert memory.memory_need(model, LoadOptions(offload="encoder"), 0).held == need.total - whole["text_encoder"].total
