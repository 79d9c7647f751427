"""Clips of the second world: endless and seeded, each with the truth that readers are checked against."""

from dataclasses import dataclass

import numpy as np

from longtake.pipeline.training.second_world.captions import Caption, draw_caption
from longtake.pipeline.training.second_world.moves import Moves, draw_moves
from longtake.pipeline.training.second_world.pictures import Pictures, Pixels, draw_pictures
from longtake.pipeline.training.second_world.sounds import render_sound
from longtake.pipeline.training.source import Key


@dataclass(frozen=True)
class TrueClip:
    """A clip and its truth: what moves and when, the pictures with the cover of each body, and the sound [2 n]."""

    moves: Moves
    pictures: Pictures
    sound: Pixels


def draw_clip(
    key: Key, number: int, seconds: float, caption: Caption | None = None, held_out: bool = False
) -> TrueClip:
    """Clip `number` of a seed and a step, the same on every machine up to rounding of the last bit.

    Args:
        caption: by default a random one of the training set, or of the held-out captions.
    """
    rng = np.random.default_rng((*key, number))
    moves = draw_moves(rng, caption or draw_caption(rng, held_out), seconds)
    return TrueClip(moves, draw_pictures(moves), render_sound(moves))
