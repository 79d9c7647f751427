"""The road on Ray: the same bits as in one process, and what happens when an actor dies."""

import sys

import pytest
import ray
import torch

from actors.company import Company, Resources
from actors.conductor import Conductor
from actors.stage import Order
from jobs.render import render
from pipeline import film
from pipeline.acts import open_take
from pipeline.errors import JournalError
from pipeline.journal.journal import latents_to_bytes, segment_to_bytes
from pipeline.journal.store import Store
from pipeline.numerics import numerics
from pipeline.spec import parse_storyboard
from pipeline.weights.load import load_model

STORYBOARD = """
model: tiny
sampling: {steps: 2}
scenes:
  - {prompt: a red circle bounces fast, duration: 4.5s}
  - {prompt: a blue square rests, duration: 2s}
  - {prompt: a green triangle glides, duration: 37f, transition: cut}
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def take_at(path):
    wish = parse_storyboard(STORYBOARD)
    model = load_model(wish.model)
    return open_take(wish, model, Store(str(path)), numerics(model))


def company_for(take, **changes):
    order = Order(take.plan.wish, take.store.url, {**numerics(take.model), **changes}, threads=1)
    return Company(order, Resources.of(threads=1))


def journal_bytes(take):
    return [
        (latents_to_bytes(take.journal.latents(chunk)), segment_to_bytes(take.journal.segment(chunk)))
        for chunk in take.plan.chunks
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    torch.set_num_threads(1)
    take = take_at(tmp_path_factory.mktemp("alone"))
    film.render(take)
    return take


@pytest.mark.usefixtures("ray_cluster")
def test_actors_render_the_same_bits_as_one_process_and_resume_where_one_died(alone, tmp_path):
    take = take_at(tmp_path)
    company = company_for(take)
    killed = Conductor(2**20, take.plan.chunk_bytes, lambda: None)
    follow = killed.follow

    def follow_until_the_decoder_dies(chunk, landed):
        follow(chunk, landed)
        if chunk.index == 4:
            ray.kill(company._actors["decode"])

    killed.follow = follow_until_the_decoder_dies
    with pytest.raises(ray.exceptions.RayActorError):
        render(take, company, killed)
    assert not take.store.exists("film.mp4")
    kept = take.journal.num_kept("latents")
    assert kept >= 1

    render(take, company_for(take), Conductor(2**28, take.plan.chunk_bytes))
    assert journal_bytes(take) == journal_bytes(alone)
    assert take.store.get("film.mp4") == alone.store.get("film.mp4")
    _, _, resumed = take.store.get("events.jsonl").decode().rpartition('"road.start"')
    assert not any(f'"denoise.chunk", "chunk": {index},' in resumed for index in range(kept))
    assert f'"denoise.chunk", "chunk": {kept},' in resumed


@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_that_would_compute_other_bits_refuses_to_start(tmp_path):
    with pytest.raises(JournalError, match=r"would render other bits: torch is .*, not 1\.0"):
        company_for(take_at(tmp_path), torch="1.0").wait()


@pytest.mark.usefixtures("ray_cluster")
def test_the_scribe_writes_what_it_hears_without_torch(tmp_path):
    company = company_for(take_at(tmp_path))
    with company:
        loaded = ray.get(company.scribe.__ray_call__.remote(lambda _: set(sys.modules)))
    assert "torch" not in loaded
    assert "pipeline.journal.event_log" in loaded
    assert '"road.start"' in (tmp_path / "events.jsonl").read_text()
