"""All readers of films of the second world together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.second_world.bodies import SeenBody, read_bodies
from longtake.pipeline.inspect.second_world.ground import Ground, read_ground
from longtake.pipeline.inspect.second_world.happenings import Happenings, read_happenings
from longtake.pipeline.inspect.second_world.hearing import Heard, hear
from longtake.pipeline.training.second_world.pictures import Pixels


@dataclass(frozen=True)
class Reading:
    """What a film of the second world shows and sounds like."""

    ground: Ground
    bodies: tuple[SeenBody, ...]
    happenings: Happenings
    heard: Heard


def read_film(frames: NDArray[np.uint8], fps: float, sound: Pixels, rate: int) -> Reading:
    """Read RGB frames [f h w 3] of one shot of a few seconds, and both channels of its sound [2 n]."""
    ground = read_ground(frames)
    bodies = read_bodies(frames, ground.view)
    return Reading(ground, bodies, read_happenings(bodies, fps), hear(sound, rate))
