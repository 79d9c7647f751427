from time import sleep

import numpy as np
import pytest
import ray

from longtake.actors.pacer import ChunkPacer
from longtake.jobs.bench.overlap import seconds_of_film

KIB = 2**10


@ray.remote(num_cpus=0)
class Decoder:
    def run(self, index):
        return np.full(KIB, index % 256, dtype=np.uint8)


@ray.remote(num_cpus=0)
class SlowEncoder:
    def __init__(self):
        self.seen = []

    def run(self, frames):
        sleep(0.004)
        self.seen.append(int(frames[0]))

    def order(self):
        return self.seen


@ray.remote(num_cpus=0)
class Breaks:
    def run(self, _):
        raise ValueError("broken")


@pytest.mark.usefixtures("ray_cluster")
def test_bytes_in_flight_never_exceed_the_budget_and_chunks_stay_in_order():
    decoder, encoder = Decoder.remote(), SlowEncoder.remote()
    pacer, peak, flights = ChunkPacer(5 * KIB, lambda _: KIB), 0, 0
    for chunk in pacer.paced(seconds_of_film(300)):
        pacer.follow(chunk, encoder.run.remote(decoder.run.remote(chunk.index)))
        peak, flights = max(peak, pacer.bytes_in_flight), flights + 1
    assert flights == 300
    assert 4 * KIB < peak <= 5 * KIB
    assert pacer.bytes_in_flight == 0
    assert ray.get(encoder.order.remote()) == [index % 256 for index in range(300)]


@pytest.mark.usefixtures("ray_cluster")
def test_a_chunk_larger_than_the_budget_is_in_flight_alone():
    decoder, pacer, peak = Decoder.remote(), ChunkPacer(1, lambda _: KIB), 0
    for chunk in pacer.paced(seconds_of_film(5)):
        pacer.follow(chunk, decoder.run.remote(chunk.index))
        peak = max(peak, pacer.bytes_in_flight)
    assert peak == KIB


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_stage_raises_reaches_the_driver():
    breaks, pacer = Breaks.remote(), ChunkPacer(KIB, lambda _: 1)

    def fly():
        for chunk in pacer.paced(seconds_of_film(1)):
            pacer.follow(chunk, breaks.run.remote(chunk.index))

    with pytest.raises(ValueError, match="broken"):
        fly()


@pytest.mark.usefixtures("ray_cluster")
def test_the_pacer_ticks_while_it_waits():
    encoder, ticks = SlowEncoder.remote(), []
    pacer = ChunkPacer(KIB, lambda _: 1, lambda: ticks.append(1))
    for chunk in pacer.paced(seconds_of_film(3)):
        pacer.follow(chunk, encoder.run.remote(np.zeros(1, dtype=np.uint8)))
    assert len(ticks) >= 3
