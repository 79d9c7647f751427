"""Restarts: only the first chunk of a section is denoised again, and without them no bit and no key changes."""

from dataclasses import replace

import pytest
import torch

from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.errors import SpecError
from longtake.pipeline.sampling.schedule import RESTART_LEVEL
from longtake.pipeline.spec import parse_storyboard
from tests.tiny import FPS, prompts, tiny_chunks, tiny_model, tiny_rollout, tiny_store

BOARD = "{scenes: [{prompt: a red circle bounces fast on a dark background, duration: 2s}]"


def rendered(restarts):
    """The latents of a film of two sections, and how often the denoiser ran for each chunk."""
    model = tiny_model()
    clock = model.clock(FPS)
    chunks = tiny_chunks(clock, [2, 2], [True, True])
    engine = tiny_rollout(model, tiny_store(model, KVPlan(3), chunks), clock, steps=4)
    engine.sampling = replace(engine.sampling, restarts=restarts)
    passes, guided = [0] * len(chunks), engine._guided

    def counted(streams, chunk, *rest):
        passes[chunk.index] += 1
        return guided(streams, chunk, *rest)

    engine._guided = counted
    latents = [engine.denoise(chunk, prompts(model, "a red circle")) for chunk in chunks]
    return latents, passes, engine.sampling


def test_only_the_first_chunk_of_a_section_is_denoised_again():
    (plain, once, _), (again, passes, sampling) = rendered(0), rendered(2)
    more = 2 * (sampling.num_steps - sampling.restart_step)
    assert once == [4, 4, 4, 4]
    assert passes == [4 + more, 4, 4 + more, 4]
    assert sampling.sigmas["video"][sampling.restart_step] <= RESTART_LEVEL < sampling.sigmas["video"][0]
    assert not torch.equal(plain[0].video, again[0].video)
    assert not torch.equal(plain[2].audio, again[2].audio)


def test_restarts_are_reproducible():
    (one, *_), (other, *_) = rendered(2), rendered(2)
    assert all(torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio) for a, b in zip(one, other, strict=True))


def test_a_storyboard_without_restarts_has_the_keys_of_older_journals():
    plain, zero, some = (
        parse_storyboard(BOARD + rest) for rest in ("}", ", sampling: {restarts: 0}}", ", sampling: {restarts: 2}}")
    )
    for dump in (plain.model_dump(mode="json"), zero.model_dump()):
        assert "restarts" not in dump["sampling"]
        assert dump["sampling"]["steps"] == 12
    assert some.model_dump(mode="json")["sampling"]["restarts"] == 2
    with pytest.raises(SpecError, match=r"sampling\.restarts"):
        parse_storyboard(BOARD + ", sampling: {restarts: 11}}")
