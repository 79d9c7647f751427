"""A dry run prints what a gang sends, in the precision in which the model computes."""

from math import prod

import pytest
import torch
from rich.console import Console

from longtake.jobs.dry_run import print_plan
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
