"""A film that is upscaled while it is rendered."""

import pytest
import ray
import torch

from actors.company import Company
from actors.conductor import Conductor
from actors.crew import Crew, Patience
from jobs.render import render
from pipeline import film
from pipeline.acts import open_take
from pipeline.journal.store import Store
from pipeline.models.embedded import TINY, EmbeddedModel
from pipeline.numerics import numerics
from pipeline.spec import parse_storyboard

WISH = parse_storyboard(
    """
model: tiny
sampling: {steps: 1}
scenes: [{prompt: a red circle bounces, duration: 6s}]
output: {upscale: 2, upscaler: tiny-upscaler, hls: false}
"""
)


class KillsTheUpscaler(Conductor):
    """After the third chunk, once."""

    def __init__(self, take, company):
        super().__init__(1, take.plan.chunk_bytes)
        self._company, self._kills = company, 1

    def _beat(self):
        super()._beat()
        if self._kills and self.next_chunk > 2:
            self._kills = 0
            ray.kill(self._company.upscale.actors[0])


@pytest.mark.usefixtures("ray_cluster")
def test_actors_upscale_to_the_same_bits_as_one_process_though_one_is_killed(tmp_path):
    torch.set_num_threads(1)
    model = EmbeddedModel.untrained(TINY)
    alone, take = (open_take(WISH, model, Store(str(tmp_path / name)), numerics(model)) for name in ("alone", "ray"))
    film.render(alone)
    crew = Crew.of(patience=Patience(start=120, chunk=30, pulse=5, back_off=0.1), acts=WISH.acts)
    with Company(crew) as company:
        render(take, company, KillsTheUpscaler(take, company))
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")
    events = take.store.get("events.jsonl").decode()
    assert '"actor.replaced"' in events
    assert events.count('"upscale.chunk"') >= 6
