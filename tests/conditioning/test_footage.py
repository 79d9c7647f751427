"""Footage, masks and pictures at any moment of a scene: what is given stays, and the rest is rendered to fit it."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from longtake.pipeline import film
from longtake.pipeline.conditioning.files import read_frames, read_picture
from longtake.pipeline.errors import SpecError
from longtake.pipeline.media.picture import to_uint8, write_png
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.spec import parse_storyboard
from tests.conditioning.test_encoder import latents_of, model_of, take_of
from tests.inspect.shapes_film import true_film, write_mp4
from tests.tiny_take import Recorder

LEFT = "{0s: [0, 0, 0.5, 1]}"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two stills, footage of 3 s, and a mask that is white on the left."""
    folder, truth = tmp_path_factory.mktemp("files"), true_film("a red circle bounces fast on a dark background", 3)
    write_png(torch.from_numpy(truth.frames[5]), folder / "a.png")
    write_png(torch.from_numpy(truth.frames[40]), folder / "b.png")
    write_mp4(folder / "clip.mp4", truth.frames, truth.sound)
    mask = torch.zeros(64, 64, 3, dtype=torch.uint8)
    mask[:, :32] = 255
    write_png(mask, folder / "left.png")
    write_mp4(folder / "mask.mp4", mask.expand(20, -1, -1, -1).numpy())
    return folder


def spec_of(files, *scenes, top=""):
    body = "".join(f"\n  - {{prompt: a red circle bounces, {scene}}}" for scene in scenes)
    named = {each.name: str(each) for each in files.iterdir()}
    for name, path in named.items():
        body, top = body.replace(name, path), top.replace(name, path)
    return parse_storyboard(f"model: tiny\nsampling: {{steps: 2}}\n{top}\nscenes:{body}")


@pytest.fixture
def rendered(files, tmp_path):
    def render(*scenes):
        take = take_of(spec_of(files, *scenes), model_of(), tmp_path / "take")
        film.render(take)
        return take

    return render


def footage_of(files, count):
    pictures = read_frames(str(files / "clip.mp4"), Fraction(16), 64, 64)
    return torch.cat([to_uint8(picture) for _, picture in zip(range(count), pictures, strict=False)])


def encoded(footage):
    return model_of().video_codec.encode((footage.movedim(-1, 1).float() / 127.5 - 1)[None])[0]


def shown(take):
    """The frames of a film before they are compressed."""
    frames = torch.zeros(take.plan.num_frames, 64, 64, 3, dtype=torch.uint8)
    return take.given.picture(range(take.plan.num_frames), frames)


@torch.inference_mode()
def test_footage_is_shown_as_it_is_and_only_its_sound_is_rendered(files, rendered):
    take = rendered("duration: 36f", "duration: 1s, transition: cut, video: clip.mp4")
    scene = take.plan.scenes[1].frames
    assert torch.equal(shown(take)[scene.start :], footage_of(files, 16))
    assert not shown(take)[: scene.start].any(), "the other scene is rendered"
    own = torch.cat([latents.video for latents in latents_of(take) if latents.span.scene == 1])
    torch.testing.assert_close(own, encoded(footage_of(files, 16)), rtol=0, atol=1e-5)
    assert take.notes == ("scenes[1].video lasts 3 s, the scene 1 s; the rest of it is left out",)


def test_with_all_pictures_given_the_sound_has_all_steps(files):
    model = EmbeddedModel.untrained(TINY)
    plan = take_of(spec_of(files, "duration: 1s, video: clip.mp4"), model, files / "none").plan
    assert plan.sigmas["audio"] == plan.sigmas["video"]


@torch.inference_mode()
@pytest.mark.parametrize("mask", [LEFT, "left.png", "mask.mp4"])
def test_outside_of_a_mask_the_footage_stays(files, rendered, mask):
    take = rendered(f"duration: 1s, video: clip.mp4, mask: {mask}")
    footage, latents = footage_of(files, 16), latents_of(take)[0].video
    assert torch.equal(shown(take)[:, :, 32:], footage[:, :, 32:])
    assert torch.equal(shown(take)[:, :, :24], torch.zeros_like(footage[:, :, :24]))
    own = encoded(footage)
    assert torch.equal(latents[..., 4:], own[: len(latents), ..., 4:])
    assert (latents[..., :4] - own[: len(latents), ..., :4]).abs().amin((1, 2)).min() > 0
    kept = take_of(
        spec_of(files, f"duration: 1s, video: clip.mp4, mask: {mask}, keep: inside"), model_of(), files / "other"
    )
    assert torch.equal(shown(kept)[:, :, :32], footage[:, :, :32])
    assert kept.journal._keys.latents[0].key != take.journal._keys.latents[0].key


@torch.inference_mode()
def test_the_strength_is_the_noise_level_from_which_footage_is_rendered_again(files, rendered):
    own = encoded(footage_of(files, 16))

    def distance(strength):
        take = rendered(f"duration: 1s, video: clip.mp4, strength: {strength}")
        assert not shown(take).any(), "all of the picture is rendered"
        latents = latents_of(take)[0].video
        return (latents - own[: len(latents)]).abs().mean()

    near, half, far = distance(0.001), distance(0.5), distance(1)
    assert near < 0.02
    assert 0.1 < half < far


@torch.inference_mode()
def test_boxes_move_evenly_between_their_moments(files, tmp_path):
    boxes = "{0s: [0, 0, 0.25, 1], 16f: [0.5, 0, 0.75, 1]}"
    take = take_of(spec_of(files, f"duration: 2s, video: clip.mp4, mask: {boxes}"), model_of(), tmp_path / "take")
    changed = (shown(take) != footage_of(files, 32)).any(-1).any(1)
    edges = [(row.nonzero().min().item(), row.nonzero().max().item()) for row in changed[[0, 8, 16, 31]]]
    for (left, right), box in zip(edges, [(0, 16), (16, 32), (32, 48), (32, 48)], strict=True):
        assert box[0] <= left <= box[0] + 4
        assert box[1] - 5 <= right < box[1]


@torch.inference_mode()
def test_pictures_are_given_at_their_moments_and_an_edit_renders_what_follows(files, rendered, tmp_path):
    take = rendered("duration: 3s, images: {0s: a.png, 1.3s: b.png}, last_image: a.png")
    frames = torch.cat([latents.video for latents in latents_of(take)])
    for latent, name in ((0, "a.png"), (5, "b.png"), (-1, "a.png")):
        picture = read_picture(str(files / name), 64, 64).expand(4, -1, -1, -1)
        assert torch.equal(frames[latent], model_of().video_codec.encode(picture[None])[0, 0])
    recorder = Recorder()
    spec = spec_of(files, "duration: 3s, images: {0s: a.png, 1.3s: b.png}, last_image: b.png")
    film.render(take_of(spec, model_of(), tmp_path / "take"), recorder)
    assert recorder.acted("denoise") == [len(take.plan.chunks) - 1]


def test_footage_of_another_rate_is_taken_by_time(tmp_path):
    grey = np.repeat(np.arange(0, 240, 4, dtype=np.uint8), 96 * 128 * 3).reshape(60, 96, 128, 3)
    write_mp4(tmp_path / "fast.mp4", grey, fps=30)
    for fps, expected in ((15, torch.arange(1.0, 60, 2)), (60, torch.arange(120) // 2)):
        frames = [(one + 1) * 127.5 for one in read_frames(str(tmp_path / "fast.mp4"), Fraction(fps), 64, 64)]
        grey_of = torch.stack([frame.mean() / 4 for frame in frames])
        torch.testing.assert_close(grey_of, expected[: len(frames)].float(), rtol=0, atol=0.6)
        assert len(frames) >= len(expected) - 1


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("duration: 1s, mask: left.png", r"scenes\[0\].mask is .*; it changes footage, add scenes\[0\].video"),
        ("duration: 1s, strength: 0.5", r"scenes\[0\].strength is 0.5; it changes footage"),
        ("duration: 1s, video: clip.mp4, keep: inside", r"scenes\[0\].keep is 'inside'; it names a side of a mask"),
        ("duration: 1s, video: clip.mp4, strength: 0", r"strength is 0; that changes nothing"),
        ("duration: 1s, video: clip.mp4, image: a.png", r"its picture is given already, leave out image"),
        ("duration: 5s, video: clip.mp4", r"which lasts 3 s; the scene lasts 5 s, shorten it or use longer"),
        ("duration: 3s, video: clip.mp4, mask: mask.mp4", r"mask is .*, which lasts 1.25 s; the scene lasts 3 s"),
        ("duration: 1s, video: nothing.mp4", r"scenes\[0\].video is 'nothing.mp4'; nothing is there"),
        ("duration: 1s, video: clip.mp4, mask: nothing.png", r"scenes\[0\].mask is 'nothing.png'; nothing is there"),
        ("duration: 1s, images: {3s: a.png}", r"images.3s is shown at 3s; scenes\[0\] lasts 1 s, show it earlier"),
        ("duration: 1s, images: {2f: a.png}, image: b.png", r"images.2f is .*; scenes\[0\].image is shown at the same"),
        ("duration: 2f, image: a.png, last_image: b.png", r"last_image is .*scenes\[0\].image is shown at the same"),
        ("duration: 1s, images: [a.png]", r"images is .*use pictures at moments of the scene"),
        ("duration: 1s, images: {2: a.png}", r"2 is no moment of the scene"),
        ("duration: 1s, video: clip.mp4, mask: {0s: [0.5, 0, 0.2, 1]}", r"the box at 0s is \[0.5, 0, 0.2, 1\]; use"),
        ("duration: 1s, video: clip.mp4, maks: left.png", r"scenes\[0\].maks .* is not a known key; did you mean mask"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_in_one_sentence(files, tmp_path, scene, message):
    with pytest.raises(SpecError, match=message):
        take_of(spec_of(files, scene), model_of(), tmp_path / "take")
    assert not (tmp_path / "take").exists()


def test_a_picture_and_a_sound_that_are_both_given_leave_nothing_to_render(files, tmp_path):
    with pytest.raises(SpecError, match=r"audio.file gives the sound: nothing is left to render"):
        take_of(spec_of(files, "duration: 1s, video: clip.mp4", top="audio: clip.mp4"), model_of(), tmp_path / "take")
