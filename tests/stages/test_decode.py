"""A film is shown as if it were decoded at once, also where the picture sees the latents of later chunks."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from longtake.pipeline.adapters.ltx2.codecs import LTX2VideoCodec
from longtake.pipeline.clock import plan_chunks, plan_scenes
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.keys import film_keys
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.picture import to_uint8
from longtake.pipeline.models.silence import Silence
from longtake.pipeline.plan import DecoderReach, FilmPlan
from longtake.pipeline.spec import OutputSpec, parse_storyboard
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.upscale import decoded_with
from longtake.pipeline.testing.ltx2 import LATENT_CHANNELS, one_chunk, tiny_video_vae
from longtake.pipeline.values import LatentChunk
from tests.tiny_take import STORYBOARD, legs, render

CHUNK = 3
NOT_DECODED = ("storyboard", "guidance", "sigmas", "latent_shapes", "rollout", "kv_plan", "sites", "setting", "steps")
"""Parts of a plan that a decoder never asks for."""


def a_film(dtype):
    """A model whose picture sees 7 latents ahead, a plan of two sections, and latents by chunk."""
    _, clock = one_chunk(1)
    scenes = plan_scenes(clock, [Fraction(clock.frames(n), 24) for n in (70, 20)], [True, True])
    chunks = plan_chunks(clock, scenes, CHUNK)
    codec = LTX2VideoCodec(tiny_video_vae().to(dtype))
    model = SimpleNamespace(video_codec=codec, sound_codec=Silence(960), device=torch.device("cpu"))
    reach = DecoderReach.of(codec, model.sound_codec)
    plan = FilmPlan(clock=clock, scenes=scenes, chunks=chunks, before=(), reach=reach, **dict.fromkeys(NOT_DECODED))
    torch.manual_seed(3)
    latents = [
        LatentChunk(c, torch.randn(len(c.latents), LATENT_CHANNELS, 1, 2), torch.zeros(len(c.audio_latents), 0))
        for c in chunks
    ]
    return model, plan, latents


@pytest.fixture(scope="module")
def film():
    return a_film(torch.float32)


def stage_of(film):
    model, plan, latents = film
    return DecodeStage(model, plan, lambda span: latents[span.index])


def shown(stage, film, indices):
    _, plan, latents = film
    frames = []
    for index in indices:
        seen = [plan.span(index), *plan.decode_ahead(plan.span(index))]
        frames.append(stage(*(latents[span.index] for span in seen))[0].frames)
    return frames


@pytest.mark.parametrize("batch", [1, 3])
def test_frames_of_chunks_are_those_of_their_whole_section(batch):
    model, plan, latents = a_film(torch.float64)
    film = model, replace(plan, decode_batch=batch), latents
    frames = shown(stage_of(film), film, range(len(latents)))
    for section in sorted({chunk.section for chunk in plan.chunks}):
        mine = [chunk.index for chunk in plan.chunks if chunk.section == section]
        video = torch.cat([latents[index].video for index in mine])
        with torch.inference_mode():
            whole, _ = model.video_codec.decode(video.unsqueeze(0), None, True)
        assert torch.equal(torch.cat([frames[index] for index in mine]), to_uint8(whole[0]))


@pytest.mark.parametrize("start", [1, 12, 22, 25])
def test_a_stage_that_begins_in_the_middle_shows_the_same_bits(film, start):
    _, _, latents = film
    undisturbed = shown(stage_of(film), film, range(len(latents)))
    resumed = shown(stage_of(film), film, range(start, len(latents)))
    assert all(torch.equal(a, b) for a, b in zip(undisturbed[start:], resumed, strict=True))


def test_a_segment_depends_on_the_latents_that_its_picture_sees(film):
    _, plan, _ = film
    storyboard = parse_storyboard("scenes: [{prompt: a, duration: 2s}, {prompt: b, duration: 2s, transition: cut}]")
    seeing, causal = (
        film_keys(storyboard, plan.chunks, {}, last_seen)
        for last_seen in (lambda chunk: decoded_with(plan, None, chunk)[-1], lambda chunk: chunk)
    )
    assert seeing.latents == causal.latents
    assert seeing.segments[0].parts["latents"] == seeing.latents[3].key
    assert seeing.segments[21].parts["ends_section"]
    assert not causal.segments[21].parts["ends_section"]


def test_batches_are_of_the_same_chunks_wherever_a_film_resumes(film, monkeypatch):
    model, plan, latents = film
    film, passes = (model, replace(plan, decode_batch=4), latents), []
    decode = model.video_codec.decode
    monkeypatch.setattr(model.video_codec, "decode", lambda x, *rest: passes.append(x.shape[1]) or decode(x, *rest))
    undisturbed, whole = shown(stage_of(film), film, range(len(latents))), list(passes)
    assert whole[:2] == [4 * CHUNK] * 2
    for start in (3, 13, 22):
        passes.clear()
        resumed = shown(stage_of(film), film, range(start, len(latents)))
        assert all(torch.equal(a, b) for a, b in zip(undisturbed[start:], resumed, strict=True))
        assert passes == whole[-len(passes) :]


def test_batches_are_keys_of_their_own_and_not_for_films_that_are_watched(film):
    _, plan, _ = film
    board = "scenes: [{prompt: a, duration: 2s}, {prompt: b, duration: 2s, transition: cut}]\noutput: {hls: %s}"
    batched = parse_storyboard(board % "false, decode_batch: 4")
    one, four = (film_keys(it, plan.chunks, {}) for it in (parse_storyboard(board % "false"), batched))
    assert one.latents == four.latents
    assert all(a.key != b.key for a, b in zip(one.segments, four.segments, strict=True))
    with pytest.raises(SpecError, match=r"output.decode_batch.* 4 chunks are decoded together, .* use hls: false"):
        parse_storyboard(board % "true, decode_batch: 4")


def test_a_film_in_batches_that_was_killed_resumes_bit_for_bit():
    board = STORYBOARD.model_copy(update={"output": OutputSpec(hls=False, decode_batch=2)})
    whole, killed = Store("memory://batches"), Store("memory://batches-killed")
    render(whole, storyboard=board)
    kills = [("decode.chunk", 0), ("encode.chunk", 1), ("denoise.chunk", 3), ("encode.chunk", 2), ("publish.chunk", 3)]
    acted = list(legs(lambda observer: render(killed, observer, board), kills))
    assert [chunk for leg in acted for chunk in leg.acted("denoise")] == [0, 1, 2, 3, 4]
    assert killed.get("film.mp4") == whole.get("film.mp4")
