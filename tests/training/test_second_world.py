from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.embedded import SECOND_WORLD, EmbeddedModel
from longtake.pipeline.models.sound_codec import SoundCodecConfig
from longtake.pipeline.models.video_codec import VideoCodecConfig
from longtake.pipeline.training import world
from longtake.pipeline.training.codec import CodecTask, follow_statistics
from longtake.pipeline.training.denoiser import DenoiserTask
from longtake.pipeline.training.second_world.captions import Caption, draw_caption
from longtake.pipeline.training.second_world.clips import SecondWorld
from longtake.pipeline.training.second_world.moves import FPS, SIZE, box, draw_moves, meeting_radius
from longtake.pipeline.training.second_world.pictures import draw_pictures
from longtake.pipeline.training.second_world.sounds import PITCH_HZ, SAMPLE_RATE, render_sound
from longtake.pipeline.training.second_world.world import draw_clip
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.weights.load import load_model

MEETING = Caption.parse("a red circle bounces fast and a large blue triangle bounces slow on a dark background")

TINY = replace(
    SECOND_WORLD,
    denoiser=replace(
        SECOND_WORLD.denoiser,
        video_channels=4,
        audio_channels=6,
        video_width=32,
        audio_width=24,
        text_width=16,
        num_heads=2,
        head_dim=16,
        num_layers=1,
    ),
    video_codec=VideoCodecConfig(4, fine_width=8, coarse_width=8),
    sound_codec=SoundCodecConfig(24_000, 1200, latent_channels=6, channels=2),
)


def moves_of(prompt, seconds=6.0, seed=0):
    return draw_moves(np.random.default_rng(seed), Caption.parse(prompt), seconds)


def test_every_caption_parses_back_and_held_out_ones_are_drawn_only_when_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(500):
        caption = draw_caption(rng)
        assert Caption.parse(str(caption)) == caption
        assert not caption.held_out
    assert all(draw_caption(rng, held_out=True).held_out for _ in range(5))


def test_every_caption_of_the_first_world_means_what_it_meant():
    for old in world.CAPTIONS:
        new = Caption.parse(str(old))
        (body,) = new.bodies
        assert (body.colour, body.shape, body.motion, new.tone) == (old.colour, old.shape, old.motion, old.background)
        assert (body.size, body.place) == ("medium", "anywhere")
        assert (new.pattern, new.camera, new.light) == ("plain", "still", "steady")
        assert new.held_out == (old in world.HELD_OUT)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red circle",
        "a red circle rests on a dark plain background",
        "a red circle rests and a red square rests on a dark background",
        "a red circle rests on the left and a blue square rests on the left on a dark background",
        "a red circle rests passing each other on a dark background",
        "a medium red circle rests on a dark background",
    ],
)
def test_other_prompts_are_refused(prompt):
    assert Caption.parse(prompt) is None


@pytest.mark.parametrize("seed", range(4))
def test_shapes_turn_exactly_at_their_events_and_keep_their_speeds(seed):
    moves = draw_moves(np.random.default_rng(seed), MEETING, 6.0)
    speeds = []
    for number, body in enumerate(MEETING.bodies):
        times = [event.time_s for event in moves.events if event.body == number]
        assert len(times) > 3
        for before, after in pairwise([0.0, *times, 6.0]):
            steps = np.diff(moves.paths[number].places(np.linspace(before + 1e-7, after - 1e-7, 5)), axis=0)
            np.testing.assert_allclose(steps, steps[:1].repeat(4, axis=0), atol=1e-5)
            if after - before > 1e-3:
                speeds.append(np.hypot(*steps[0]) * 4 / (after - before))
        low, high = box(body)
        places = moves.paths[number].places(np.linspace(0, 6, 997))
        assert np.all(places > low - 1e-6)
        assert np.all(places < high + 1e-6)
    assert np.ptp(speeds[:3]) < 1e-2


def test_two_shapes_meet_at_contact_and_never_overlap():
    moves = draw_moves(np.random.default_rng(1), MEETING, 10.0)
    meetings = sorted({event.time_s for event in moves.events if event.kind == "meeting"})
    contact = sum(meeting_radius(body) for body in MEETING.bodies)
    one, two = moves.places(np.array(meetings))
    assert meetings
    np.testing.assert_allclose(np.hypot(*(one - two).T), contact, atol=1e-6)
    one, two = moves.places(np.linspace(0, 10, 2001))
    assert np.hypot(*(one - two).T).min() > contact - 1e-6


def test_shapes_that_pass_each_other_do_not_meet():
    passing = replace(MEETING, passing=True)
    assert all(event.kind == "wall" for event in draw_moves(np.random.default_rng(1), passing, 10.0).events)


def test_a_shape_that_comes_and_goes_is_at_the_wall_at_its_events():
    moves = moves_of("a red circle comes and goes on a dark background", 10.0)
    assert {event.kind for event in moves.events} == {"leaves", "returns"}
    for event in moves.events:
        before, at, after = moves.paths[0].places(event.time_s + np.array([-0.01, 0, 0.01]))[:, 0]
        assert at == pytest.approx(event.place[0], abs=1e-6)
        assert (abs(after - SIZE / 2) > abs(before - SIZE / 2)) == (event.kind == "leaves")


def test_covers_add_up_to_what_is_drawn():
    moves = moves_of("a red circle glides and a small blue square glides on a light dotted background", 2.0)
    drawn = draw_pictures(moves)
    empty = draw_pictures(replace(moves, caption=replace(moves.caption, bodies=()), paths=()))
    assert drawn.covers.sum(axis=0).max() <= 1 + 1e-6
    bare = drawn.covers.sum(axis=0) == 0
    assert np.array_equal(np.moveaxis(drawn.frames, 1, -1)[bare], np.moveaxis(empty.frames, 1, -1)[bare])
    red = drawn.frames[:, 0][drawn.covers[0] == 1]
    np.testing.assert_allclose(red, 230 / 127.5 - 1, atol=1e-6)


def test_camera_and_light_move_the_whole_picture():
    moves = moves_of("a red circle rests on a light background while the camera pans as the light dims and rises", 4.0)
    times_s = (np.arange(4 * FPS) + 0.5) / FPS
    grey = (draw_pictures(moves).frames[:, 0, 20] + 1) * 127.5 / moves.brightness(times_s)[:, None]
    walls = (224 - grey[:, :40]).sum(axis=1) / (224 - 128)
    np.testing.assert_allclose(walls, 64 + moves.offset(times_s) - 64 * 0.8, atol=0.01)


def test_a_tone_begins_at_each_event_on_the_side_of_its_place():
    moves = moves_of("a red circle bounces fast on a dark background", 2.0)
    sound = render_sound(moves)
    event = moves.events[0]
    first = int(np.ceil(event.time_s * SAMPLE_RATE))
    assert np.abs(sound[:, :first]).max() == 0
    spectrum = np.abs(np.fft.rfft(sound[:, first : first + 2400]))
    assert spectrum[0].argmax() * 10 == PITCH_HZ["red"]
    assert (spectrum[1].max() > spectrum[0].max()) == (event.place[0] > SIZE / 2)


def test_silent_shapes_make_no_sound_and_patterns_have_a_bed():
    assert not render_sound(moves_of("a red circle bounces fast silently on a dark background")).any()
    assert render_sound(moves_of("a red circle bounces fast silently on a dark striped background")).any()


def test_a_clip_depends_only_on_its_numbers():
    one, same, other = (draw_clip((3, 4), number, 1.0) for number in (5, 5, 6))
    assert np.array_equal(one.pictures.frames, same.pictures.frames)
    assert np.array_equal(one.sound, same.sound)
    assert one.moves.caption != other.moves.caption


# -------------------------------------------------------------------- as a source of clips


def test_clips_are_in_stereo_and_name_what_is_near_shapes():
    clips = SecondWorld().draw((0, 0), range(3), Fraction(1, 2))
    assert clips.frames.shape == (3, 8, 3, SIZE, SIZE)
    assert clips.sound.shape == (3, 2, SAMPLE_RATE // 2)
    assert torch.equal(clips.sound, SecondWorld().sound((0, 0), range(3), Fraction(1, 2)))
    truth = draw_clip((0, 0), 1, 0.5)
    assert clips.prompts[1] == str(truth.moves.caption)
    assert (clips.near[1].numpy() >= (truth.pictures.covers.max(axis=0) > 0)).all()
    assert 0 < clips.near.mean() < 0.5


def test_where_the_prompt_changes_shapes_continue_and_earlier_tones_fade():
    seconds, world_ = Fraction(3), SecondWorld()
    switched, plain = (world_.draw((0, 1), range(12), seconds, share) for share in (1.0, 0.0))
    changed = [number for number, since_s in enumerate(switched.since_s) if since_s]
    assert len(changed) > 3
    for number in changed:
        start = round(switched.since_s[number])
        assert switched.prompts[number] != plain.prompts[number]
        frames, same = switched.frames[number], plain.frames[number]
        assert torch.equal(frames[: start * FPS], same[: start * FPS])
        one, two = (Caption.parse(clips.prompts[number]) for clips in (switched, plain))
        assert (one.camera, one.light, len(one.bodies)) == (two.camera, two.light, len(two.bodies))
        first = start * SAMPLE_RATE
        assert torch.equal(switched.sound[number][:, :first], plain.sound[number][:, :first])
        shown = switched.near[number].flatten(1).bool()
        assert (shown[start * FPS - 1] & shown[start * FPS]).any()


def test_the_model_of_this_world_reads_its_longest_prompt():
    body = "a small red circle bounces slow silently at the bottom"
    prompt = (
        f"{body} and {body.replace('red', 'blue').replace('bottom', 'top')} on a dark gradient background"
        " while the camera pans as the light dims and rises"
    )
    assert Caption.parse(prompt)
    model = EmbeddedModel.untrained(TINY)
    assert (model.text.tokenize(prompt) > 0).all()
    rng = np.random.default_rng(0)
    for _ in range(200):
        model.text.tokenize(str(draw_caption(rng)))
    assert (model.defaults.width, model.defaults.sample_rate) == (SIZE, SAMPLE_RATE)


def test_pooled_words_steer_blocks_wherever_they_are():
    model = EmbeddedModel.untrained(TINY).eval()
    assert len(model.text.further) == 1
    embed, text = model.denoiser.embeds["video"], torch.randn(1, 36, 16)
    rows, sigma, places = torch.randn(1, 2, 1, 64), torch.ones(1, 2), torch.zeros(2, 1, 3)
    one, other = (embed(rows, sigma, places, words).condition for words in (text, text.flip(1)))
    torch.testing.assert_close(one, other)


def test_running_statistics_follow_those_of_the_batches():
    norm = torch.nn.BatchNorm2d(3, affine=False).eval()
    features = 4 + 3 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(600):
        follow_statistics(norm, norm(features).unsqueeze(1))
    latents = norm(features)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-3)


def test_a_codec_learns_from_few_clips_by_running_statistics():
    options = {"video_codec_of": "tiny", "latents": 1, "own_statistics": False}
    spec = TrainSpec(stage="codec", steps=1, batch_size=1, lr=1e-3, options=options)
    task = CodecTask(spec, EmbeddedModel.untrained(TINY), SecondWorld())
    codec, batch = task.objective.codec, task.draw(0, 0, 0, 1)
    start = load_model("tiny").video_codec
    assert torch.equal(codec.coarse.conv.weight, start.coarse.conv.weight)
    assert batch["frames"].shape == (1, 4, 3, SIZE, SIZE)
    task.objective(batch)["loss"].backward()
    assert not torch.equal(codec.norm.running_mean, start.norm.running_mean)
    assert codec.coarse.conv.weight.grad.isfinite().all()
    task._sound_fits = True
    model = task.finished(task.objective.state_dict())
    assert torch.equal(model.video_codec.norm.running_mean, codec.norm.running_mean)


def test_a_codec_of_other_sizes_is_refused_unless_a_model_is_continued():
    options = {"video_codec_of": "tiny"}
    spec = TrainSpec(stage="codec", steps=1, batch_size=1, lr=1e-3, options=options)
    CodecTask(spec.model_copy(update={"start": "kept"}), EmbeddedModel.untrained(SECOND_WORLD), SecondWorld())
    with pytest.raises(SpecError, match=r"'tiny', with a VideoCodecConfig\(latent_channels=4, .*; second-world has"):
        CodecTask(spec, EmbeddedModel.untrained(SECOND_WORLD), SecondWorld())


def test_a_denoiser_learns_from_stereo_clips_whose_prompts_change():
    spec = TrainSpec(stage="denoiser", steps=1, batch_size=2, lr=1e-3, options={"chunks": 2, "copies": 1, "switch": 1})
    task = DenoiserTask(spec, EmbeddedModel.untrained(TINY), SecondWorld())
    losses = task.objective(task.draw(0, 0, 0, 2))
    losses["loss"].backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
