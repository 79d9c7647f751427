"""How well the pacer overlaps stages that only sleep; imports no torch, so that the actors start at once."""

from collections.abc import Iterator
from fractions import Fraction
from time import perf_counter, sleep
from typing import Any

import ray
from ray.actor import ActorHandle

from longtake.actors.pacer import ChunkPacer
from longtake.pipeline.clock import ChunkSpan

SLEEP_S = 0.5
STAGES = 3


class Sleeper:
    """A stage that takes `SLEEP_S` seconds for every chunk."""

    def run(self, *_: Any) -> None:
        """Sleep."""
        sleep(SLEEP_S)


def overlap(num_chunks: int) -> float:
    """Seconds that `num_chunks` chunks take in all stages, over the seconds that one stage works."""
    sleeper: Any = ray.remote(num_cpus=0)(Sleeper)
    stages: list[ActorHandle[Any]] = [sleeper.remote() for _ in range(STAGES)]
    ray.get([stage.__ray_ready__.remote() for stage in stages])
    pacer = ChunkPacer(STAGES + 1, lambda _: 1)
    started = perf_counter()
    for chunk in pacer.paced(seconds_of_film(num_chunks)):
        done: Any = None
        for stage in stages:
            done = stage.run.remote(done)
        pacer.follow(chunk, done)
    wall_s = perf_counter() - started
    for stage in stages:
        ray.kill(stage)
    return wall_s / (num_chunks * SLEEP_S)


def seconds_of_film(num_chunks: int) -> Iterator[ChunkSpan]:
    """Chunks of one second, with one latent and one frame each."""
    for index in range(num_chunks):
        one = range(index, index + 1)
        yield ChunkSpan(index, 0, 0, 0, one, one, one, one, Fraction(index), Fraction(index + 1), False)
