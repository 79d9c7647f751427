"""A film that is upscaled while it is rendered, on Ray."""

import pytest
import ray
import torch

from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.pipeline import film
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from tests.adapters.flashvsr.tiny import save_tiny_flashvsr

STORYBOARD = """
model: tiny
sampling: {steps: 1}
video: {width: 32, height: 32}
scenes: [{prompt: a red circle bounces, duration: 6s}]
output: {upscale: 2, upscaler: tiny-upscaler, hls: false}
"""


class KillsTheUpscaler(ChunkPacer):
    """A pacer that kills the upscaler once, after the third chunk."""

    def __init__(self, take, pool):
        super().__init__(1, take.plan.chunk_bytes)
        self._pool, self._kills = pool, 1

    def _tick(self):
        super()._tick()
        if self._kills and self.next_chunk > 2:
            self._kills = 0
            ray.kill(self._pool.stage("upscale").actors[0])


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_actors_upscale_to_the_same_bits_as_one_process_though_one_is_killed(looks_ahead, actor_pool, tmp_path):
    torch.set_num_threads(1)
    file = save_tiny_flashvsr(tmp_path / "flashvsr.safetensors", layers=1)
    overrides = ("output.upscale=4", f"output.upscaler={file}") if looks_ahead else ()
    storyboard = parse_storyboard(STORYBOARD, overrides)
    model = EmbeddedModel.untrained(TINY)
    alone, take = (
        open_take(plan_film(storyboard, model), model, Store(str(tmp_path / name)), numerics(model))
        for name in ("alone", "ray")
    )
    film.render(alone)
    render(take, actor_pool, KillsTheUpscaler(take, actor_pool))
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")
    events = take.store.get("events.jsonl").decode()
    assert '"actor.replaced"' in events
    assert events.count('"upscale.chunk"') >= 6
