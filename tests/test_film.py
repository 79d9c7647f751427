"""The whole pipeline in one process, with a tiny random model."""

import shutil
from fractions import Fraction
from functools import cache

import pytest
import torch

from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.picture import to_uint8
from longtake.pipeline.media.read import read_film
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.take import open_take
from tests.tiny_take import Recorder, legs

STORYBOARD = """
model: tiny
seed: 11
sampling: {steps: 2}
scenes:
  - {prompt: a red circle bounces fast, duration: 2.6s}
  - {prompt: a blue square rests, duration: 1.5s}
  - {prompt: a green triangle glides, duration: 37f, transition: cut}
"""


def render(spec, model, store, observer=SILENT):
    return film.render(open_take(plan_film(spec, model), model, store, numerics(model)), observer)


def storyboard(*overrides):
    return parse_storyboard(STORYBOARD, overrides)


def at_rate(fps):
    """The storyboard at another rate; at higher ones its scenes are shorter, of about as many frames as at 16."""
    factor = 16 / Fraction(fps)
    shorter = [f"scenes[{scene}].duration={float(s * factor):.3f}s" for scene, s in ((0, 2.6), (1, 1.5)) if factor < 1]
    return storyboard(f"video.fps={fps}", *shorter)


@pytest.fixture(scope="module")
def model():
    return EmbeddedModel.untrained(TINY)


@pytest.fixture(scope="module")
def undisturbed_render(model, tmp_path_factory):
    """The folder of an undisturbed take, its film and its events."""
    folder, recorder = tmp_path_factory.mktemp("undisturbed"), Recorder()
    return folder, render(storyboard(), model, Store(str(folder)), recorder), recorder


@pytest.fixture(scope="module")
def undisturbed(undisturbed_render):
    return Store(str(undisturbed_render[0]))


@pytest.fixture
def finished(undisturbed_render, tmp_path):
    """A test's own copy of the undisturbed take's folder."""
    return shutil.copytree(undisturbed_render[0], tmp_path / "take")


@pytest.mark.parametrize("fps", ["16", "24000/1001", "25", "120"])
def test_frames_samples_and_durations_are_exact(model, undisturbed_render, fps, tmp_path):
    spec = at_rate(fps)
    film = undisturbed_render[1] if fps == "16" else render(spec, model, Store(str(tmp_path)))
    plan = plan_film(spec, model)
    assert film.num_frames == plan.num_frames == round(sum(spec.durations_s()) * Fraction(fps))
    assert film.num_samples == plan.num_samples == int(film.num_frames / Fraction(fps) * 16_000)
    seen = read_film(film.url)
    assert seen.frames.shape == (film.num_frames, 64, 64, 3)
    assert seen.pcm.shape == (1, film.num_samples)


def test_every_chunk_passes_every_act_in_order(model, undisturbed_render):
    recorder = undisturbed_render[2]
    acts = ("embed", "denoise", "decode", "encode", "publish")
    chunks = plan_film(storyboard(), model).chunks
    names = [name for name, _ in recorder.events]
    assert recorder.events[0][1]["kept_latents"] == recorder.events[0][1]["kept_segments"] == 0
    assert names == ["film.start", *(f"{act}.chunk" for _ in chunks for act in acts), "film.done"]
    assert [fields["chunk"] for name, fields in recorder.events if name == "denoise.chunk"] == list(range(len(chunks)))


def test_the_same_storyboard_gives_the_same_file_bit_for_bit(model, undisturbed):
    again = Store("memory://same")
    render(storyboard(), model, again)
    assert again.get("film.mp4") == undisturbed.get("film.mp4")


def test_another_seed_gives_another_film(model, undisturbed):
    other = Store("memory://seed-12")
    render(storyboard("seed=12"), model, other)
    assert other.get("film.mp4") != undisturbed.get("film.mp4")


def rendered_latents(spec, model):
    plan = plan_film(spec, model)
    embed, denoise = EmbedStage(model.text, plan), DenoiseStage(model, plan, lambda _: None)
    return plan, [denoise(chunk, embed(chunk)) for chunk in plan.chunks]


@pytest.fixture(scope="module")
def latents_at(model):
    """The plan and the latents of the film at a rate."""
    return cache(lambda fps: rendered_latents(at_rate(fps), model))


@torch.inference_mode()
@pytest.mark.parametrize("fps", ["16", "24000/1001", "120"])
def test_decoding_chunk_by_chunk_equals_decoding_whole_sections(model, latents_at, fps):
    plan, latents = latents_at(fps)
    decode = DecodeStage(model, plan, lambda _: None)
    decoded = [decode(chunk) for chunk in latents]
    frames = torch.cat([frames.frames for frames, _ in decoded])
    pcm = torch.cat([sound.pcm for _, sound in decoded], dim=1)
    whole_frames, whole_pcm = [], []
    for section in sorted({chunk.span.section for chunk in latents}):
        own = [chunk for chunk in latents if chunk.span.section == section]
        video, _ = model.video_codec.decode(torch.cat([chunk.video for chunk in own])[None], None)
        sound, _ = model.sound_codec.decode(torch.cat([chunk.audio for chunk in own])[None], None, final=True)
        whole_frames.append(to_uint8(video[0])[: own[-1].span.frames.stop - own[0].span.frames.start])
        whole_pcm.append(sound.clamp(-1, 1))
    assert (torch.cat(whole_frames).int() - frames.int()).abs().max() <= 1  # float32 rounds to a neighbour
    whole = torch.cat(whole_pcm, dim=1)[:, : plan.num_samples]
    torch.testing.assert_close(pcm, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fps", ["16", "24000/1001", "120"])
def test_sound_chunks_tile_the_film_and_lag_less_than_two_latents(model, latents_at, fps):
    plan, latents = latents_at(fps)
    decode = DecodeStage(model, plan, lambda _: None)
    sample = 0
    for chunk in latents:
        _, sound = decode(chunk)
        assert sound.start_sample == sample
        sample = sound.stop_sample
        assert 0 <= chunk.span.samples.stop - sample < 2 * plan.clock.audio_stride
    assert sample == plan.num_samples


@pytest.mark.parametrize("fps", ["16", "24000/1001", "120"])
def test_a_decoder_that_starts_anywhere_gives_what_it_gives_there(model, latents_at, fps):
    plan, latents = latents_at(fps)
    finished = {chunk.span: chunk for chunk in latents}
    through = DecodeStage(model, plan, lambda _: None)
    decoded = [through(chunk) for chunk in latents]
    for start in range(len(latents)):
        fresh = DecodeStage(model, plan, finished.get)
        for chunk, (frames, sound) in list(zip(latents, decoded, strict=True))[start : start + 3]:
            same_frames, same_sound = fresh(chunk)
            assert torch.equal(same_frames.frames, frames.frames)
            assert torch.equal(same_sound.pcm, sound.pcm)
            assert same_sound.start_sample == sound.start_sample


def test_a_denoiser_that_starts_anywhere_gives_what_it_gives_there(model):
    spec = storyboard("scenes[0].duration=30s", "sampling.steps=1")
    plan, latents = rendered_latents(spec, model)
    embed, finished = EmbedStage(model.text, plan), {chunk.span: chunk for chunk in latents}
    for start in (0, 1, 5, 23, 24, 25, 29, 30, 31, len(latents) - 1):
        fresh = DenoiseStage(model, plan, finished.get)
        for chunk in latents[start : start + 2]:
            same = fresh(chunk.span, embed(chunk.span))
            assert torch.equal(same.video, chunk.video)
            assert torch.equal(same.audio, chunk.audio)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("video.width=60", "video.width is 60; tiny renders multiples of 16"),
        ("audio.sample_rate=48000", "audio.sample_rate is 48000; tiny renders 16000"),
        ("scenes[1].prompt=a blue sqare rests", r"scenes\[1\].prompt.*'sqare': nearest are square"),
        ("scenes[0].prompt=" + "a " * 17, "has 17 words; tiny reads 16"),
    ],
)
def test_an_impossible_storyboard_is_refused_before_anything_is_written(model, override, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        render(storyboard(override), model, Store(str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_render_that_breaks_leaves_no_film(model, tmp_path):
    class Breaks(Recorder):
        def event(self, name, **fields):
            if name == "encode.chunk" and fields["chunk"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(storyboard(), model, Store(str(tmp_path)), Breaks())
    assert not (tmp_path / "film.mp4").exists()
    assert (tmp_path / "live" / "video.m3u8").read_text().count("#EXTINF") == 2


def test_a_guidance_of_one_needs_no_unguided_pass(model):
    assert plan_film(storyboard("sampling.guidance=1"), model).branches == ("guided",)
    assert plan_film(storyboard("sampling.guidance=2"), model).branches == ("guided", "unguided")


@pytest.mark.parametrize("solver", ["euler", "renoise"])
@pytest.mark.parametrize("schedule", ["linear", "shifted", "[1.0, 0.5]"])
def test_every_sampler_renders(model, solver, schedule):
    shorter = (f"scenes[{scene}].duration={frames}f" for scene, frames in enumerate((20, 12, 9)))
    spec = storyboard(f"sampling.solver={solver}", f"sampling.schedule={schedule}", *shorter)
    _, latents = rendered_latents(spec, model)
    assert all(chunk.video.isfinite().all() and chunk.audio.isfinite().all() for chunk in latents)


# ------------------------------------------------------------------ resume: what is kept, what is made again


def journal_values(spec, model, store):
    take = open_take(plan_film(spec, model), model, store, numerics(model))
    return [(take.journal.latents(chunk), take.journal.segment(chunk)) for chunk in take.plan.chunks]


def assert_same_take(spec, model, one, other):
    for (latents, segment), (same_latents, same_segment) in zip(
        journal_values(spec, model, one), journal_values(spec, model, other), strict=True
    ):
        assert torch.equal(latents.video, same_latents.video)
        assert torch.equal(latents.audio, same_latents.audio)
        assert segment.packets == same_segment.packets
        assert segment.format == same_segment.format
        assert torch.equal(segment.sound.pcm, same_segment.sound.pcm)
    assert one.get("film.mp4") == other.get("film.mp4")


KILLS = [("embed", 0), ("decode", 1), ("publish", 2), ("denoise", 3), ("encode", 4), ("denoise", 6), ("publish", 6)]


def test_a_render_that_was_killed_at_every_act_resumes_bit_for_bit(model, undisturbed, tmp_path):
    store = Store(str(tmp_path))
    kills = [(f"{act}.chunk", chunk) for act, chunk in KILLS]
    acted = list(legs(lambda recorder: render(storyboard(), model, store, recorder), kills))
    for kept in ("denoise", "encode"):
        chunks = [chunk for leg in acted for chunk in leg.acted(kept)]
        assert chunks == list(range(len(plan_film(storyboard(), model).chunks))), f"each chunk is {kept}d once"
    assert_same_take(storyboard(), model, undisturbed, store)


def test_rendering_a_finished_take_again_only_publishes(model, undisturbed, finished):
    store, again = Store(str(finished)), Recorder()
    render(storyboard(), model, store, again)
    assert {name for name, _ in again.events} == {"film.start", "publish.chunk", "film.done"}
    assert_same_take(storyboard(), model, undisturbed, store)


def test_an_edit_redoes_its_scene_and_what_continues_it(model, finished):
    store, after = Store(str(finished)), Recorder()
    edited = storyboard("scenes[0].prompt=a yellow circle glides")
    take = open_take(plan_film(edited, model), model, store, numerics(model))
    changed = [chunk.index for chunk in take.plan.chunks if chunk.scene < 2]
    assert "prompt was a red circle bounces fast, is a yellow circle glides" in take.journal.why_not("latents", 0)
    assert take.journal.why_not("latents", changed[-1]) == "a chunk before it changed"
    render(edited, model, store, after)
    assert after.acted("denoise") == after.acted("encode") == changed
    fresh = Store(f"{finished}-fresh")
    render(edited, model, fresh)
    assert_same_take(edited, model, fresh, store)


def test_an_appended_scene_is_all_that_is_denoised(model, tmp_path):
    shorter = storyboard("scenes[0].duration=2.5s", "scenes[2].duration=36f")
    render(shorter, model, Store(str(tmp_path / "shorter")))
    for transition in ("cut", "continue"):
        added = shorter.scenes[0].model_copy(update={"transition": transition})
        longer = shorter.model_copy(update={"scenes": (*shorter.scenes, added)})
        store, after = Store(str(shutil.copytree(tmp_path / "shorter", tmp_path / transition))), Recorder()
        render(longer, model, store, after)
        own = [chunk.index for chunk in plan_film(longer, model).chunks if chunk.scene == 3]
        assert after.acted("denoise") == own
        last = [own[0] - 1] if transition == "continue" else []
        assert after.acted("encode") == [*last, *own], (
            "a film's last sound is flushed, and continues where a scene continues"
        )


def test_damaged_data_is_made_again(model, undisturbed, finished):
    store, after = Store(str(finished)), Recorder()
    for kind, index in (("segments", 2), ("segments", 5)):
        (data,) = (path for path in (finished / "journal" / kind).glob(f"{index:05d}-*"))
        data.write_bytes(data.read_bytes()[:-1] + b"?")
    render(storyboard(), model, store, after)
    assert after.acted("denoise") == []
    assert after.acted("encode") == [2, 5]
    assert_same_take(storyboard(), model, undisturbed, store)


def test_other_numerics_keep_nothing(model, finished):
    store, after = Store(str(finished)), Recorder()
    film.render(open_take(plan_film(storyboard(), model), model, store, {**numerics(model), "threads": 99}), after)
    assert after.acted("denoise") == list(range(len(plan_film(storyboard(), model).chunks)))


def test_quality_touches_segments_only(model, finished):
    store, after = Store(str(finished)), Recorder()
    render(storyboard("output.quality=30"), model, store, after)
    assert after.acted("denoise") == []
    assert after.acted("encode") == list(range(len(plan_film(storyboard(), model).chunks)))
