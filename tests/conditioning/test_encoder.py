"""Films from an image, from the end of another film, and to a sound: given latents stay, and an edit is noticed."""

import shutil
import wave
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from longtake.jobs.dry_run import print_plan
from longtake.pipeline import film
from longtake.pipeline.conditioning.files import fitted, read_last_frames, read_last_sound, read_picture
from longtake.pipeline.errors import JournalError, SpecError
from longtake.pipeline.given_files import ConditioningFile
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.picture import to_uint8, write_png
from longtake.pipeline.media.read import read_film
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.spec import load_storyboard, parse_storyboard
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.take import open_take
from longtake.pipeline.training.world import SAMPLE_RATE
from tests.inspect.shapes_film import true_film, write_mp4
from tests.tiny_take import Recorder, legs

STORYBOARD = """
model: tiny
seed: 11
sampling: {steps: 1}
scenes:
  - {prompt: a red circle bounces fast, duration: 2.6s}
  - {prompt: a blue square rests, duration: 1.5s}
  - {prompt: a green triangle glides, duration: 37f, transition: cut}
"""


@pytest.fixture(scope="module")
def truth():
    """Four seconds of a shape that bounces and sounds."""
    return true_film("a red circle bounces fast on a dark background", seconds=4)


@pytest.fixture(scope="module")
def originals(tmp_path_factory, truth):
    """A still, another one, a song of 5 s at 24 kHz in stereo, and films of 4 s and of 2 s."""
    folder = tmp_path_factory.mktemp("originals")
    write_png(torch.from_numpy(truth.frames[5]), folder / "still.png")
    write_png(torch.from_numpy(truth.frames[40]), folder / "other.png")
    write_wav(folder / "song.wav", np.stack([np.sin(np.arange(120_000) / 9), np.zeros(120_000)]), 24_000)
    write_mp4(folder / "before.mp4", truth.frames, truth.sound)
    write_mp4(folder / "short.mp4", truth.frames[:32], truth.sound[:32_000])
    return folder


@pytest.fixture
def files(tmp_path, originals):
    """A test's own copies of the files."""
    return shutil.copytree(originals, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def unconditioned(tmp_path_factory):
    """The first latents of the short film with nothing given, by rollout."""

    @cache
    def first(rollout):
        folder = tmp_path_factory.mktemp("free")
        free = take_of(storyboard(folder, *SHORT), model_of(rollout), folder / "free")
        film.render(free)
        return latents_of(free)[0]

    return first


def write_wav(path, pcm, rate):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(pcm))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((pcm.T * 20_000).astype("<i2").tobytes())


@cache
def model_of(rollout=None):
    model = EmbeddedModel.untrained(TINY)
    if rollout is not None:
        model.rollout = rollout
    return model


def storyboard(folder, *overrides):
    (folder / "film.yaml").write_text(STORYBOARD)
    return load_storyboard(str(folder / "film.yaml"), overrides)


def take_of(spec, model, store):
    return open_take(plan_film(spec, model), model, Store(str(store)), numerics(model))


def latents_of(take):
    return [take.journal.latents(chunk) for chunk in take.plan.chunks]


def same(one, other):
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


GIVEN = {
    "image": ["scenes[0].image=still.png", "scenes[2].image=other.png"],
    "film": ["continue_from=before.mp4", "scenes[2].image=still.png"],
    "sound": ["audio=song.wav"],
    "film and sound": ["continue_from=before.mp4", "audio.file=song.wav"],
    "footage and pictures": [
        "scenes[0].video=before.mp4",
        "scenes[1].images={500ms: still.png}",
        "scenes[2].video=before.mp4",
        "scenes[2].mask={0s: [0, 0, 0.5, 1]}",
        "scenes[2].strength=0.9",
    ],
}
SHORT = ["scenes[0].duration=1.6s", "scenes[1].duration=1s", "scenes[2].duration=21f"]
"""Scenes of the same kinds with fewer chunks."""
ROLLOUTS = [None, Continuation(3), Continuation(6)]


@pytest.mark.parametrize("rollout", ROLLOUTS[::2], ids=["causal", "segment-6"])
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_conditioned_film_is_exact_and_killed_anywhere_resumes_bit_for_bit(files, unconditioned, given, rollout):
    model, spec = model_of(rollout), storyboard(files, *SHORT, *given)
    whole = take_of(spec, model, files / "whole")
    rendered = film.render(whole)
    assert (rendered.num_frames, rendered.num_samples) == (whole.plan.num_frames, whole.plan.num_samples)
    assert not same(latents_of(whole)[0], unconditioned(rollout))
    killed = files / "killed"
    kills = [("decode.chunk", 0), ("denoise.chunk", 1)]
    assert len(list(legs(lambda observer: film.render(take_of(spec, model, killed), observer), kills))) == 3
    assert Store(str(killed)).get("film.mp4") == whole.store.get("film.mp4")


@torch.inference_mode()
def test_an_image_is_the_first_latent_of_its_scene_and_an_edit_of_it_keeps_the_scenes_before(files):
    model, spec = model_of(), storyboard(files, *SHORT, *GIVEN["image"])
    take = take_of(spec, model, files / "take")
    film.render(take)
    for name, chunk in (("still.png", 0), ("other.png", take.plan.chunks[-1].scene_start)):
        picture = read_picture(str(files / name), 64, 64)
        encoded = model.video_codec.encode(picture.expand(4, -1, -1, -1)[None])[0]
        assert torch.equal(latents_of(take)[chunk].video[:1], encoded)
    (files / "other.png").write_bytes((files / "still.png").read_bytes())
    recorder = Recorder()
    film.render(take_of(spec, model, files / "take"), recorder)
    assert recorder.acted("denoise") == [chunk.index for chunk in take.plan.chunks if chunk.scene == 2]


def test_the_same_picture_under_another_name_is_the_same_film(files):
    model = model_of()
    film.render(take_of(storyboard(files, *SHORT, "scenes[0].image=still.png"), model, files / "take"))
    (files / "renamed.png").write_bytes((files / "still.png").read_bytes())
    take = take_of(storyboard(files, *SHORT, "scenes[0].image=renamed.png"), model, files / "take")
    assert take.journal.num_kept("segments") == len(take.plan.chunks)


@pytest.mark.parametrize("rollout", ROLLOUTS, ids=["causal", "segment-3", "segment-6"])
@torch.inference_mode()
def test_a_film_continues_the_last_seconds_of_another_in_both_streams(files, rollout):
    model = model_of(rollout)
    take = take_of(storyboard(files, "continue_from=before.mp4"), model, files / "take")
    before, latents = take.plan.before, 12 if rollout is None else rollout.overlap
    assert sum(len(chunk.latents) for chunk in before) == latents
    assert before[-1].stop_s == 0
    assert [chunk.section for chunk in take.plan.chunks[:3]] == [-len(before)] * 3
    known = [take.finished(chunk) for chunk in before]
    shown, heard = read_film(str(files / "before.mp4")), 5 * latents
    frames = torch.cat([fitted(frame[None].numpy(), 64, 64) for frame in shown.frames[-4 * latents :]])
    assert torch.equal(torch.cat([chunk.video for chunk in known]), model.video_codec.encode(frames[None])[0])
    sound = model.sound_codec.encode(shown.pcm[:, -800 * heard :])[0]
    assert torch.equal(torch.cat([chunk.audio for chunk in known]), sound)


@torch.inference_mode()
def test_a_continued_film_is_decoded_as_if_it_had_never_ended(files):
    model = model_of()
    take = take_of(storyboard(files, "continue_from=before.mp4"), model, files / "take")
    film.render(take)
    first = [chunk.index for chunk in take.plan.chunks if chunk.section < 0]
    chunks = [*(take.finished(chunk) for chunk in take.plan.before), *latents_of(take)[: len(first)]]
    video, _ = model.video_codec.decode(torch.cat([chunk.video for chunk in chunks])[None], None)
    sound, _ = model.sound_codec.decode(torch.cat([chunk.audio for chunk in chunks])[None], None, final=True)
    decode = DecodeStage(model, take.plan, take.finished)
    decoded = [decode(latents) for latents in latents_of(take)[: len(first)]]
    frames = torch.cat([frames.frames for frames, _ in decoded])
    pcm = torch.cat([sound.pcm for _, sound in decoded], dim=1)
    assert decoded[0][1].start_sample == 0
    whole = to_uint8(video[0])[48 : 48 + len(frames)]
    assert (whole.int() - frames.int()).abs().max() <= 1  # float32 rounds to a neighbour
    torch.testing.assert_close(pcm, sound[:, 48_000 : 48_000 + pcm.shape[1]].clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rollout", ROLLOUTS, ids=["causal", "segment-3", "segment-6"])
def test_a_film_shorter_than_a_chunk_continues_whole_ones(files, rollout):
    spec = storyboard(files, "continue_from=before.mp4", "scenes=[{prompt: a red circle, duration: 5f}]")
    assert film.render(take_of(spec, model_of(rollout), files / "take")).num_frames == 5


def test_the_end_of_a_film_of_another_rate_and_size_is_taken_at_the_right_times(tmp_path):
    grey = np.repeat(np.arange(0, 240, 4, dtype=np.uint8), 96 * 128 * 3).reshape(60, 96, 128, 3)
    write_mp4(tmp_path / "fast.mp4", grey, np.zeros(1), fps=30)
    frames = (read_last_frames(str(tmp_path / "fast.mp4"), 10, Fraction(15), 64, 64) + 1) * 127.5
    assert frames.shape == (10, 3, 64, 64)
    shown = frames.mean(dim=(1, 2, 3)) / 4
    torch.testing.assert_close(shown, torch.arange(41.0, 60, 2), rtol=0, atol=0.6)


def test_the_end_of_the_sound_is_that_under_the_end_of_the_picture(tmp_path, truth):
    late = np.concatenate([truth.sound, np.full(SAMPLE_RATE, 0.5, np.float32)])
    for name, sound in (("long", late), ("short", truth.sound[: 3 * SAMPLE_RATE])):
        write_mp4(tmp_path / f"{name}.mp4", truth.frames, sound)
        pcm = read_film(str(tmp_path / f"{name}.mp4")).pcm[:, 2 * SAMPLE_RATE : 4 * SAMPLE_RATE]
        tail = read_last_sound(str(tmp_path / f"{name}.mp4"), 2 * SAMPLE_RATE, SAMPLE_RATE, 1)
        assert tail.shape == (1, 2 * SAMPLE_RATE)
        assert torch.equal(tail[:, : pcm.shape[1]], pcm)
    assert not tail[:, -SAMPLE_RATE // 2 :].any(), "what is missing is silence"
    write_mp4(tmp_path / "silent.mp4", truth.frames)
    assert not read_last_sound(str(tmp_path / "silent.mp4"), 800, SAMPLE_RATE, 2).any()


def test_a_picture_of_another_shape_covers_the_films_and_is_cut_evenly():
    wide = np.zeros((1, 10, 40, 3), np.uint8)
    wide[:, :, 15:25] = 255
    assert fitted(wide, 10, 10).min() == 1
    assert fitted(wide, 40, 20).shape == (1, 3, 20, 40)
    assert torch.equal(fitted(wide, 40, 10)[0, 0, 0], torch.from_numpy(wide[0, 0, :, 0] / 127.5 - 1).float())


@torch.inference_mode()
def test_a_given_sound_is_published_as_it_is_and_the_picture_is_rendered_to_it(files):
    model = model_of()
    take = take_of(storyboard(files, "audio=song.wav"), model, files / "take")
    film.render(take)
    pcm = torch.cat([take.journal.segment(chunk).sound.pcm for chunk in take.plan.chunks], dim=1)
    heard = take.given.sound(range(take.plan.num_samples))
    assert torch.equal(pcm, heard)
    loud = heard[:, 8000:72_000].square().mean().sqrt()
    assert loud == pytest.approx(20_000 / 32_768 / 2 / 2**0.5, rel=0.01), "both channels are mixed down to one"
    for section in sorted({chunk.section for chunk in take.plan.chunks}):
        own = [latents for latents in latents_of(take) if latents.span.section == section]
        begin, stop = own[0].span.audio_latents.start, own[-1].span.audio_latents.stop
        expected = model.sound_codec.encode(take.given.sound(range(800 * begin, 800 * stop)))[0]
        assert torch.equal(torch.cat([latents.audio for latents in own]), expected)
    assert take.plan.sigmas["audio"] == take.plan.sigmas["video"], "the picture waits for nothing, and lags nothing"


@pytest.mark.parametrize(("seconds", "note"), [(2, "silence follows"), (9, "the rest of it is left out")])
def test_a_sound_of_another_length_is_padded_or_trimmed_with_a_note(tmp_path, seconds, note):
    write_wav(tmp_path / "song.wav", np.ones((1, seconds * 16_000)), 16_000)
    take = take_of(storyboard(tmp_path, "audio=song.wav"), model_of(), tmp_path / "take")
    assert take.notes == (f"audio.file lasts {seconds:.2f} s, the film 6.44 s; {note}",)
    num_samples = take.plan.num_samples
    assert take.given.sound(range(num_samples)).count_nonzero() == min(seconds * 16_000, num_samples)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scenes[0].image=gone.png"], r"scenes\[0\].image is '.*/gone.png'; nothing is there, use a path next"),
        (["continue_from=gone.mp4", "audio=gone.wav"], r"continue_from is .*nothing is(.|\n)*audio.file is .*gone"),
        (["scenes[0].image=film.yaml"], r"scenes\[0\].image is .*film.yaml'; it cannot be used: reading"),
        (["scenes[0].image=song.wav"], r"scenes\[0\].image is .*song.wav'; it cannot be used"),
        (["audio=still.png"], r"audio.file is .*still.png'; it holds no sound"),
        (["continue_from=song.wav"], r"continue_from is .*song.wav'; it cannot be used: .*song.wav holds no picture"),
        (["continue_from=short.mp4"], r"continue_from is .*, which lasts 2 s; tiny continues the last 3 s"),
        (["scenes[1].image=still.png"], r"scenes\[1\].image is .*; a picture opens a scene, add transition: cut"),
        (["scenes[0].image=still.png", "continue_from=before.mp4"], r"continue_from is .*, but scenes\[0\] has an im"),
        (["scenes[0].transition=cut", "continue_from=before.mp4"], r"but scenes\[0\] has transition: cut; leave one"),
    ],
)  # fmt: skip
def test_an_unusable_file_is_named_by_its_key_before_anything_starts(files, overrides, message):
    with pytest.raises(SpecError, match=message):
        take_of(storyboard(files, *overrides), model_of(), files / "take")
    assert not (files / "take").exists()


def test_a_model_that_reads_prompts_only_refuses_everything_else_at_once(files, monkeypatch):
    from dataclasses import replace

    limits = replace(model_of().limits, given=frozenset(("image",)))
    monkeypatch.setattr(EmbeddedModel, "limits", limits)
    with pytest.raises(
        SpecError, match=r"continue_from is .*; tiny can be given image only(.|\n)*audio.file is"
    ) as refused:
        take_of(storyboard(files, "continue_from=before.mp4", "audio=song.wav"), model_of(), files / "take")
    assert str(refused.value).count("\n") == 1
    monkeypatch.setattr(EmbeddedModel, "limits", replace(limits, given=frozenset()))
    with pytest.raises(SpecError, match=r"scenes\[0\].image is .*; tiny reads prompts only, leave it out"):
        take_of(storyboard(files, "scenes[0].image=still.png"), model_of(), files / "take")


def test_a_node_that_sees_another_file_refuses(files):
    model, spec = model_of(), storyboard(files, "scenes[0].image=still.png")
    begun = take_of(spec, model, files / "take")
    assert open_take(plan_film(spec, model), model, begun.store, begun.numerics).journal._keys == begun.journal._keys
    (files / "still.png").write_bytes((files / "other.png").read_bytes())
    with pytest.raises(JournalError, match=r"scenes\[0\].image is another file here"):
        open_take(plan_film(spec, model), model, begun.store, begun.numerics)


def test_files_are_found_next_to_the_storyboard_on_any_file_system(files):
    import fsspec

    assert storyboard(files, "audio=song.wav").audio.file == str(files / "song.wav")
    assert storyboard(files, "audio=s3://songs/song.wav").audio.file == "s3://songs/song.wav"
    with fsspec.open("memory://boards/film.yaml", "w") as file:
        file.write(yaml.safe_dump({**yaml.safe_load(STORYBOARD), "continue_from": "old/film.mp4"}))
    assert load_storyboard("memory://boards/film.yaml").continue_from == "memory://boards/old/film.mp4"
    files = parse_storyboard(STORYBOARD, ["audio=song.wav", "scenes[2].image=a.png"]).conditioning_files()
    assert files == (
        ConditioningFile("sound", "audio.file", "song.wav"),
        ConditioningFile("image", "scenes[2].image", "a.png", scene=2),
    )


def test_a_dry_run_lists_conditioning_files(files):
    model = model_of()
    take = take_of(storyboard(files, *GIVEN["film and sound"]), model, files / "take")
    console = Console(record=True, width=300)
    print_plan(take.plan, model, Degrees(), console)
    assert f"given  continue_from {files}/before.mp4, audio.file {files}/song.wav" in console.export_text()


def test_nothing_given_changes_no_key(files):
    model = model_of()
    plain = parse_storyboard(STORYBOARD)
    keys = [take_of(spec, model, files / "take").journal._keys for spec in (plain, storyboard(files))]
    assert keys[0] == keys[1]
