"""Several ranks denoise one take together, in processes of their own."""

import pytest
import ray
import torch

from longtake.actors.film import render
from longtake.actors.gang import is_lost_peer
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Timeouts
from longtake.actors.rendering import GangSpec
from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import ONE_RANK, numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.load import load_model

STORYBOARD = """
model: tiny
sampling: {steps: 2}
scenes:
  - {prompt: a red circle bounces fast, duration: 3s}
  - {prompt: a blue square rests, duration: 1s}
"""

TWO = Degrees(ulysses=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def take_at(path, degrees=ONE_RANK):
    storyboard = parse_storyboard(STORYBOARD)
    model = load_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(path)), numerics(model, degrees))


def config_of(degrees):
    return PoolConfig.of(degrees=degrees, timeouts=Timeouts(start=120, exchange=10, chunk=30, heartbeat=5))


def latents(take):
    return [take.journal.latents(chunk) for chunk in take.plan.chunks]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    torch.set_num_threads(1)
    take = take_at(tmp_path_factory.mktemp("alone"))
    film.render(take)
    return latents(take)


@pytest.fixture(scope="module")
def pool(request, ray_cluster):  # noqa: ARG001 (outlives this fixture)
    with ActorPool(config_of(request.param)) as pool:
        yield pool


@pytest.mark.parametrize("pool", [TWO, Degrees(ring=3), Degrees(cfg=2)], indirect=True, ids=str)
def test_a_gang_renders_the_film_of_one_rank(pool, alone, tmp_path):
    take = take_at(tmp_path, pool.config.degrees)
    rendered = render(take, pool, ChunkPacer(2**28, take.plan.chunk_bytes))
    assert (rendered.num_frames, rendered.num_samples) == (64, 64_000)
    for chunk, one in zip(latents(take), alone, strict=True):
        for name in ("video", "audio"):
            a, b = getattr(chunk, name), getattr(one, name)
            assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("pool", [TWO], indirect=True, ids=str)  # the actors of the test above
def test_a_gang_that_loses_a_rank_is_replaced_and_no_bit_differs(pool, tmp_path):
    whole, broken = (take_at(tmp_path / name, TWO) for name in ("whole", "broken"))
    pacer = ChunkPacer(1, broken.plan.chunk_bytes)
    follow = pacer.follow

    def follow_until_a_rank_dies(chunk, landed):
        follow(chunk, landed)
        if chunk.index == 1:
            pacer.follow = follow
            ray.kill(pool.stage("denoise").actors[1])

    render(whole, pool, ChunkPacer(2**28, whole.plan.chunk_bytes))
    pacer.follow = follow_until_a_rank_dies
    render(broken, pool, pacer)
    for a, b in zip(latents(broken), latents(whole), strict=True):
        assert torch.equal(a.video, b.video)
        assert torch.equal(a.audio, b.audio)
    assert broken.store.get("film.mp4") == whole.store.get("film.mp4")
    assert '"act": "denoise", "epoch": 1' in broken.store.get("events.jsonl").decode()


@pytest.fixture(scope="module")
def plan():
    return plan_film(parse_storyboard(STORYBOARD), load_model("tiny"))


@pytest.mark.parametrize(
    ("gang", "degrees"),
    [
        (GangSpec(), Degrees()),
        (GangSpec(ranks=2), Degrees(cfg=2)),
        (GangSpec(ranks=4), Degrees(ulysses=2, cfg=2)),
        (GangSpec(ranks=3), Degrees(ring=3)),
        (GangSpec(ulysses=2, ring=2), Degrees(ulysses=2, ring=2)),
    ],
)
def test_degrees_are_proposed_where_none_are_given(plan, gang, degrees):
    assert gang.degrees(plan) == degrees


def test_degrees_that_contradict_the_ranks_are_refused(plan):
    with pytest.raises(SpecError, match=r"--ranks is 3; ulysses 2 x ring 1 x cfg 1 are 2"):
        GangSpec(ranks=3, ulysses=2).degrees(plan)
    unguided = plan_film(parse_storyboard(STORYBOARD, ["sampling.guidance=1"]), load_model("tiny"))
    with pytest.raises(SpecError, match=r"a guidance of 1 has one pass only"):
        GangSpec(cfg=2).degrees(unguided)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711", True),
        ("NCCL communicator was aborted on rank 1", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_a_lost_peer_is_told_from_other_errors_by_the_name_of_the_backend(message, lost):
    assert is_lost_peer(RuntimeError(message)) is lost
