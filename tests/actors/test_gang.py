"""Several ranks denoise one take together, in processes of their own."""

import pytest
import ray
import torch

from actors.company import Company
from actors.conductor import Conductor
from actors.crew import Crew, Patience
from jobs.render import render
from jobs.take import GangWish
from pipeline import film
from pipeline.acts import open_take
from pipeline.attention.shares import Degrees
from pipeline.errors import SpecError
from pipeline.journal.store import Store
from pipeline.numerics import ONE_RANK, numerics
from pipeline.plan import plan_film
from pipeline.spec import parse_storyboard
from pipeline.weights.load import load_model

STORYBOARD = """
model: tiny
sampling: {steps: 2}
scenes:
  - {prompt: a red circle bounces fast, duration: 3s}
  - {prompt: a blue square rests, duration: 1s}
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def take_at(path, degrees=ONE_RANK):
    wish = parse_storyboard(STORYBOARD)
    model = load_model(wish.model)
    return open_take(wish, model, Store(str(path)), numerics(model, degrees))


def crew_of(degrees):
    return Crew.of(degrees=degrees, patience=Patience(start=120, exchange=10, chunk=30, pulse=5, back_off=0.1))


def latents(take):
    return [take.journal.latents(chunk) for chunk in take.plan.chunks]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    torch.set_num_threads(1)
    take = take_at(tmp_path_factory.mktemp("alone"))
    film.render(take)
    return latents(take)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2)], ids=str)
def test_a_gang_renders_the_film_of_one_rank(degrees, alone, tmp_path):
    take = take_at(tmp_path, degrees)
    with Company(crew_of(degrees)) as company:
        rendered = render(take, company, Conductor(2**28, take.plan.chunk_bytes))
    assert (rendered.num_frames, rendered.num_samples) == (64, 64_000)
    for chunk, one in zip(latents(take), alone, strict=True):
        for name in ("video", "audio"):
            a, b = getattr(chunk, name), getattr(one, name)
            assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.usefixtures("ray_cluster")
def test_a_gang_that_loses_a_rank_is_replaced_and_no_bit_differs(tmp_path):
    degrees = Degrees(ulysses=2)
    whole, broken = (take_at(tmp_path / name, degrees) for name in ("whole", "broken"))
    conductor = Conductor(1, broken.plan.chunk_bytes)
    follow = conductor.follow

    def follow_until_a_rank_dies(chunk, landed):
        follow(chunk, landed)
        if chunk.index == 1:
            conductor.follow = follow
            ray.kill(company.denoise.actors[1])

    with Company(crew_of(degrees)) as company:
        render(whole, company, Conductor(2**28, whole.plan.chunk_bytes))
        conductor.follow = follow_until_a_rank_dies
        render(broken, company, conductor)
    for a, b in zip(latents(broken), latents(whole), strict=True):
        assert torch.equal(a.video, b.video)
        assert torch.equal(a.audio, b.audio)
    assert broken.store.get("film.mp4") == whole.store.get("film.mp4")
    assert '"act": "denoise", "epoch": 1' in broken.store.get("events.jsonl").decode()


@pytest.fixture(scope="module")
def plan():
    return plan_film(parse_storyboard(STORYBOARD), load_model("tiny"))


@pytest.mark.parametrize(
    ("wish", "degrees"),
    [
        (GangWish(), Degrees()),
        (GangWish(ranks=2), Degrees(cfg=2)),
        (GangWish(ranks=4), Degrees(ulysses=2, cfg=2)),
        (GangWish(ranks=3), Degrees(ring=3)),
        (GangWish(ulysses=2, ring=2), Degrees(ulysses=2, ring=2)),
    ],
)
def test_degrees_are_proposed_where_they_are_not_said(plan, wish, degrees):
    assert wish.degrees(plan) == degrees


def test_degrees_that_contradict_the_ranks_are_refused(plan):
    with pytest.raises(SpecError, match=r"--ranks is 3; ulysses 2 x ring 1 x cfg 1 are 2"):
        GangWish(ranks=3, ulysses=2).degrees(plan)
    unguided = plan_film(parse_storyboard(STORYBOARD, ["sampling.guidance=1"]), load_model("tiny"))
    with pytest.raises(SpecError, match=r"a guidance of 1 has one pass only"):
        GangWish(cfg=2).degrees(unguided)
