"""A dry run prints what a gang sends, in the precision in which the model computes."""

from math import prod

import pytest
import torch
from rich.console import Console
from rich.table import Table

from longtake.jobs.dry_run import print_plan
from longtake.jobs.feedback import plain_console
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard

STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle, duration: 48f}]}"


def printed(dtype, degrees):
    model = EmbeddedModel.untrained(TINY).to(dtype)
    plan = plan_film(parse_storyboard(STORYBOARD), model)
    console = Console(record=True, width=300)
    print_plan(plan, model, degrees, console)
    return plan, console.export_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_guidance_passes_on_two_ranks_send_velocities_only(dtype):
    plan, text = printed(dtype, Degrees(cfg=2))
    chunk = max(plan.chunks, key=plan.tokens)
    values = len(chunk.latents) * prod(plan.latent_shapes["video"])
    values += len(chunk.audio_latents) * prod(plan.latent_shapes["audio"])
    sent = 2 * values * dtype.itemsize / 1024
    assert f"cfg 2; 0 KiB sent in each layer of each pass, {sent:.0f} KiB of velocities in each step" in text


def test_half_precision_sends_half_as_much_in_each_layer():
    sent = {}
    for dtype in (torch.float32, torch.bfloat16):
        _, text = printed(dtype, Degrees(ulysses=2))
        sent[dtype] = int(text.split(" KiB sent in each layer")[0].rsplit(" ", 1)[1])
    assert sent[torch.float32] == pytest.approx(2 * sent[torch.bfloat16], abs=2)
    assert sent[torch.bfloat16] > 0


def test_restarts_count_as_the_steps_that_they_repeat():
    model, counted = EmbeddedModel.untrained(TINY), []
    scenes = "[{prompt: a red circle, duration: 96f}, {prompt: a blue square, duration: 48f, transition: cut}]"
    for restarts in (0, 2):
        sampling = f"{{steps: 4, schedule: linear, restarts: {restarts}}}"
        plan = plan_film(parse_storyboard(f"{{model: tiny, sampling: {sampling}, scenes: {scenes}}}"), model)
        counted.append([plan.passes(chunk) for chunk in plan.chunks])
        console = Console(record=True, width=300)
        print_plan(plan, model, Degrees(), console)
        assert ("steps more for the first chunk after each cut" in console.export_text()) == bool(restarts)
    more = [again - once for once, again in zip(*counted, strict=True)]
    opening = [chunk.index == chunk.section for chunk in plan.chunks]
    assert [count > 0 for count in more] == opening
    assert sum(opening) == 2
    assert max(more) == 2 * sum(level <= 0.65 for level in plan.sigmas["video"][:-1])


def test_brackets_of_prompts_and_paths_are_printed_and_no_line_is_wrapped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path, scenes = "out/[draft]/" + "film/" * 30, Table("prompt")
    scenes.add_row("[bold] a [red] circle")
    plain_console().print(path, scenes)
    printed = capsys.readouterr().out
    assert "[bold] a [red] circle" in printed
    assert path in printed.splitlines()
