"""Films with conditioning inputs (images, sound, preceding footage) rendered by actors."""

import numpy as np
import torch

from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.pipeline import film
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.picture import write_png
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from tests.inspect.shapes_film import true_film, write_mp4

STORYBOARD = """
model: tiny
sampling: {steps: 1}
continue_from: %(folder)s/before.mp4
audio: %(folder)s/before.mp4
scenes:
  - {prompt: a red circle bounces, duration: 2s}
  - {prompt: a blue square rests, duration: 2s, transition: cut, image: %(folder)s/still.png}
  - {prompt: a blue square rests, duration: 1s, video: %(folder)s/before.mp4, mask: {0s: [0, 0, 0.5, 1]}}
output: {hls: false}
"""


def test_actors_render_conditioned_films_to_the_same_bits_as_one_process(actor_pool, tmp_path):
    torch.set_num_threads(1)
    truth = true_film("a red circle bounces fast on a dark background", seconds=4)
    write_mp4(tmp_path / "before.mp4", truth.frames, truth.sound.astype(np.float32))
    write_png(torch.from_numpy(truth.frames[5]), tmp_path / "still.png")
    storyboard, model = parse_storyboard(STORYBOARD % {"folder": tmp_path}), EmbeddedModel.untrained(TINY)
    alone, take = (
        open_take(plan_film(storyboard, model), model, Store(str(tmp_path / name)), numerics(model))
        for name in ("alone", "ray")
    )
    film.render(alone)
    render(take, actor_pool, ChunkPacer(2**28, take.plan.chunk_bytes, lambda: None))
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")
