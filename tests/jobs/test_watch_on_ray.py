"""The watch page in a browser while actors on Ray render."""

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import pytest
import torch

from longtake.actors.film import render
from longtake.actors.pacer import ChunkPacer
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.load import load_model
from tests.browser import debugging, needs_chromium
from tests.jobs.test_watch import DONE, NOW, serving

STORYBOARD = """
model: tiny
title: Rendered on Ray
sampling: {steps: 1, guidance: 1}
scenes:
  - {prompt: a red circle bounces fast, duration: 4s}
  - {prompt: a blue square rests, duration: 3s}
"""
START_S = 180.0


class HeldConductor(ChunkPacer):
    """Starts no chunk from `held` on before `go` is set."""

    held = 4

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.go = threading.Event()

    def paced(self, chunks):
        for chunk in super().paced(chunks):
            if chunk.index == self.held:
                self.go.wait()
            yield chunk


def until(true, rendering):
    """Wait for something that the render brings about."""
    latest = monotonic() + START_S
    while not true():
        if rendering.done():
            rendering.result()
        assert monotonic() < latest
        sleep(0.05)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs_chromium
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_page_plays_a_film_while_actors_render_it(actor_pool, tmp_path):
    storyboard = parse_storyboard(STORYBOARD)
    model = load_model(storyboard.model)
    take = open_take(plan_film(storyboard, model), model, Store(str(tmp_path / "take")), numerics(model))
    pacer, chunks = HeldConductor(2**28, take.plan.chunk_bytes), len(take.plan.chunks)
    with ThreadPoolExecutor(1) as road:
        rendering = road.submit(render, take, actor_pool, pacer)
        try:
            until(lambda: take.store.exists("journal/take.json"), rendering)
            with serving(take.store) as server, debugging(tmp_path / "profile") as page:
                page.open(server.url)
                until(lambda: page.ask(f"({DONE}).publish == {pacer.held}"), rendering)
                page.wait_for("document.getElementById('title')?.textContent == 'Rendered on Ray'")
                page.wait_for(f"{NOW} > 1")
                page.wait_for("document.getElementById('notice').textContent == 'Rendering the next chunk …'")
                held_at = page.ask(NOW)
                assert page.ask("document.getElementById('state').dataset.state") == "rendering"
                assert not take.store.exists("film.mp4")

                pacer.go.set()
                page.wait_for(f"{NOW} > {held_at} + 0.3")
                film = rendering.result(START_S)
                page.wait_for("document.getElementById('state').dataset.state == 'done'")
                page.wait_for("document.getElementById('video').ended")
                assert page.ask(f"({DONE}).denoise") == chunks
                assert page.ask(NOW) == pytest.approx(float(film.duration_s), abs=0.1)
                assert page.troubles == []
        finally:
            pacer.go.set()
