"""A chunk's latents are written to the journal while its clean pass runs, and are there when the stage returns."""

from threading import Event

import pytest

from longtake.pipeline import acts
from longtake.pipeline.journal.store import Store
from longtake.pipeline.observe import SILENT
from tests.tiny_take import take_in


@pytest.fixture
def take(tmp_path):
    return take_in(Store(str(tmp_path)))


def denoised(take, denoise):
    chunk = take.plan.chunks[0]
    return denoise(chunk, acts.embed(take, SILENT)(chunk))


def test_the_write_and_the_clean_pass_run_at_the_same_time(take, monkeypatch):
    in_clean_pass, put = Event(), take.store.put

    def slow(name, data, **options):
        if name.startswith("journal/latents/"):
            assert in_clean_pass.wait(30), "the clean pass waits for the write"
        put(name, data, **options)

    monkeypatch.setattr(take.store, "put", slow)
    denoise = acts.denoise(take, SILENT)
    finish = denoise.stage.engine.finish
    monkeypatch.setattr(denoise.stage.engine, "finish", lambda *all: in_clean_pass.set() or finish(*all))
    denoised(take, denoise)
    assert take.journal.holds("latents", 0)


def test_a_chunk_whose_clean_pass_fails_is_kept_before_the_stage_raises(take, monkeypatch):
    denoise = acts.denoise(take, SILENT)
    monkeypatch.setattr(denoise.stage.engine, "finish", lambda *_: pytest.fail("no clean pass"))
    with pytest.raises(pytest.fail.Exception):
        denoised(take, denoise)
    assert take.journal.holds("latents", 0)


def test_a_write_that_fails_fails_the_chunk(take, monkeypatch):
    def full(*_, **_2):
        raise OSError("no space left")

    denoise = acts.denoise(take, SILENT)
    conditioning = acts.embed(take, SILENT)(take.plan.chunks[0])
    monkeypatch.setattr(take.store, "put", full)
    with pytest.raises(OSError, match="no space left"):
        denoise(take.plan.chunks[0], conditioning)
