"""Films whose upscaler looks ahead: a tiny random FlashVSR, and one of ours whose chunks do not fit the film's."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange

from longtake.pipeline import acts, film
from longtake.pipeline.adapters.upscalers import open_upscaler, upscaler_notes
from longtake.pipeline.errors import JournalError, SpecError, WeightsError
from longtake.pipeline.journal.journal import chunk_name
from longtake.pipeline.journal.manifests import manifest_file
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.read import read_film
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.models.upscaler import TINY_UPSCALER, Upscaler
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.upscale import frames_ahead, replay_start
from longtake.pipeline.take import open_take
from longtake.pipeline.values import FrameChunk
from longtake.pipeline.weights.load import save_model
from tests.adapters.flashvsr.tiny import save_tiny_flashvsr
from tests.tiny_take import Recorder, legs

MODEL = EmbeddedModel.untrained(TINY)
STORYBOARD = """
model: tiny
sampling: {steps: 1, guidance: 1}
video: {width: 16, height: 16}
scenes:
  - {prompt: a red circle bounces fast, duration: 6s}
  - {prompt: a green triangle glides, duration: 3s, transition: continue}
  - {prompt: a blue square rests, duration: 2.1s, transition: cut}
output: {quality: 0, hls: false}
"""
SCALES = {"flashvsr": 4, "unaligned": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upscalers")
    own = replace(TINY_UPSCALER, name="unaligned", chunk_frames=5)
    save_model(Upscaler.untrained(own), str(folder / "unaligned.safetensors"))
    save_tiny_flashvsr(folder / "flashvsr.safetensors", layers=1)
    return folder


@pytest.fixture(scope="module", params=SCALES)
def upscaled(request, files, tmp_path_factory):
    """The overrides that ask for an upscaler, and a folder that holds an undisturbed film made with it."""
    name = request.param
    overrides = (f"output.upscale={SCALES[name]}", f"output.upscaler={files / name}.safetensors")
    folder = tmp_path_factory.mktemp(name)
    render(folder, overrides)
    return overrides, folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder that holds the film without an upscaler."""
    folder = tmp_path_factory.mktemp("small")
    render(folder)
    return folder


def take_in(folder, overrides=()):
    plan = plan_film(parse_storyboard(STORYBOARD, overrides), MODEL)
    return open_take(plan, MODEL, Store(str(folder)), numerics(MODEL))


def render(folder, overrides=(), observer=SILENT):
    film.render(take_in(folder, overrides), observer)
    return (folder / "film.mp4").read_bytes()


def test_every_segment_holds_the_pictures_of_one_pass_over_its_section(upscaled, small):
    overrides, folder = upscaled
    small, large = take_in(small), take_in(folder, overrides)
    decode, encode = acts.decode(small, SILENT), acts.encode(small, SILENT)
    decoded = [decode(*map(small.journal.latents, small.decoded_with(chunk))) for chunk in small.plan.chunks]
    model, scale = large.upscaler.model, large.plan.storyboard.output.upscale
    for section in {chunk.section for chunk in small.plan.chunks}:
        mine = [(frames, sound) for frames, sound in decoded if frames.span.section == section]
        inputs = rearrange(torch.cat([frames.frames for frames, _ in mine]), "f h w c -> f c h w").float() / 255
        state = model.start(scale, 16, 16)
        whole = torch.cat([model.push(inputs, state), model.finish(state)])
        whole = rearrange(whole * 255, "f c h w -> f h w c").round().to(torch.uint8)
        for frames, sound in mine:
            first = frames.span.frames.start - mine[0][0].span.frames.start
            pictures = whole[first : first + len(frames.frames)].contiguous()
            segment = encode(FrameChunk(frames.span, pictures), sound)
            kept = large.journal.segment(frames.span)
            assert kept.packets == segment.packets
            assert torch.equal(kept.sound.pcm, segment.sound.pcm)


def test_a_film_has_the_size_and_the_frames_that_were_asked_for(upscaled):
    overrides, folder = upscaled
    take, shown = take_in(folder, overrides), read_film(str(folder / "film.mp4"))
    side = 16 * take.plan.storyboard.output.upscale
    assert shown.frames.shape == (take.plan.num_frames, side, side, 3)


def test_a_film_killed_four_times_resumes_each_time_with_the_same_bits(upscaled, tmp_path):
    overrides, folder = upscaled
    kills, denoised = (0, 5, 7, 10), set()
    acted = legs(lambda observer: render(tmp_path, overrides, observer), [("encode.chunk", chunk) for chunk in kills])
    for last, leg in zip((-1, *kills), acted, strict=True):
        assert leg.acted("upscale")[0] == last + 1
        assert denoised.isdisjoint(leg.acted("denoise"))
        denoised.update(leg.acted("denoise"))
    assert (tmp_path / "film.mp4").read_bytes() == (folder / "film.mp4").read_bytes()


def test_a_resumed_film_replays_the_history_and_not_the_whole_scene(upscaled):
    overrides, folder = upscaled
    take = take_in(folder, overrides)
    chunk = take.plan.chunks[8]
    replayed = take.plan.frame_history(chunk, replay_start(take.upscaler.grid, take.plan, chunk))
    assert 0 < replayed[0].index < replayed[-1].index == 7


@pytest.mark.parametrize("lost", [("segments", 8, "latents", 7), ("segments", 7, "latents", 8)])
def test_what_was_lost_is_rendered_again_with_the_same_bits(upscaled, tmp_path, lost):
    overrides, folder = upscaled
    for name, size in Store(str(folder)).list("journal").items():
        if size and "lock" not in name:
            Store(str(tmp_path)).put(name, Store(str(folder)).get(name))
    for kind, index in zip(lost[::2], lost[1::2], strict=True):
        Store(str(tmp_path)).delete(manifest_file(chunk_name(kind, index)))
    again = Recorder()
    assert render(tmp_path, overrides, again) == (folder / "film.mp4").read_bytes()
    assert again.acted("denoise") == [lost[3]]


def test_a_segment_depends_on_the_latents_that_its_upscaler_looks_ahead_to(upscaled):
    overrides, folder = upscaled
    take = take_in(folder, overrides)
    ahead = frames_ahead(take.upscaler.grid, take.plan, take.plan.chunks[0])
    assert len(ahead) > 0
    assert [chunk.index for chunk in take.decoded_with(take.plan.chunks[0])] == [0, 1]
    keys = take.journal._keys
    assert keys.segments[0].parts["latents"] == keys.latents[1].key
    last = next(chunk for chunk in take.plan.chunks if chunk.ends_section)
    assert keys.segments[last.index].parts["latents"] == keys.latents[last.index].key


def test_another_process_plans_with_the_upscaler_and_loads_it_only_where_it_runs(upscaled):
    overrides, folder = upscaled
    first = take_in(folder, overrides)
    other = open_take(first.plan, MODEL, first.store, first.numerics)
    assert other.journal._keys == first.journal._keys
    assert other.upscaler._model is None
    assert other.upscaler.model.fingerprint() == first.upscaler.fingerprint
    moved = first.plan.storyboard.model_copy(
        update={"output": first.plan.storyboard.output.model_copy(update={"upscaler": "tiny-upscaler"})}
    )
    with pytest.raises(JournalError, match=r"output.upscaler: tiny-upscaler is another file here"):
        acts.upscale(open_take(replace(first.plan, storyboard=moved), MODEL, first.store, first.numerics), SILENT)


def test_what_the_upscaler_cannot_do_is_refused_before_work_starts(files, tmp_path):
    name = f"{files}/flashvsr.safetensors"
    with pytest.raises(SpecError, match=r"output.upscale is 2; FlashVSR v1.1 enlarges by 4; use output.upscale: 4"):
        take_in(tmp_path, ("output.upscale=2", f"output.upscaler={name}"))
    with pytest.raises(WeightsError, match=r"gone\.safetensors cannot be read"):
        take_in(tmp_path, ("output.upscale=4", f"output.upscaler={files}/gone.safetensors"))
    assert not list(tmp_path.iterdir())


def test_users_are_told_of_random_weights_and_of_a_licence_that_restricts_use(tmp_path):
    file = save_tiny_flashvsr(tmp_path / "flashvsr.safetensors", layers=1)
    assert upscaler_notes(file, open_upscaler(file)) == []
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    told = f"{file}: its licence, cc-by-nc-4.0, forbids commercial use"
    assert upscaler_notes(file, open_upscaler(file)) == [told]
    untrained = "tiny-upscaler has no trained weights yet: expect a bicubic enlargement"
    assert upscaler_notes("tiny-upscaler", open_upscaler("tiny-upscaler")) == [untrained]
