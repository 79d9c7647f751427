import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from longtake.jobs.cli import main
from longtake.pipeline.errors import MediaError, SpecError
from longtake.pipeline.inspect.clicks import ClickMeter
from longtake.pipeline.inspect.compare import compare_films, ssim
from longtake.pipeline.inspect.events import motion_events
from longtake.pipeline.inspect.loudness import LoudnessMeter
from longtake.pipeline.inspect.page import to_html
from longtake.pipeline.inspect.pictures import PictureMeter
from longtake.pipeline.inspect.report import inspect_film
from longtake.pipeline.inspect.seams import measure_seams
from longtake.pipeline.inspect.subject import open_subject
from longtake.pipeline.inspect.verdicts import Scale
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.media.read import FrameBlock
from longtake.pipeline.training.world import FPS, SAMPLE_RATE
from tests.inspect.shapes_film import switched_film, true_film, write_mp4, write_take

FAST = "a red circle bounces fast on a dark background"
SLOW = "a blue square bounces slow on a light background"


@pytest.fixture(scope="module")
def take(tmp_path_factory):
    film = switched_film(FAST, SLOW, 6.0, 12, seed=1)
    return write_take(tmp_path_factory.mktemp("take"), film, [FAST, SLOW], [6, 6], cuts=[True, False])


@pytest.fixture(scope="module")
def inspection(take):
    return inspect_film(open_subject(take))


def measured(frames, block=7):
    meter = PictureMeter(keep=[0, len(frames) - 1])
    for start in range(0, len(frames), block):
        part = frames[start : start + block]
        meter.add(FrameBlock(tuple((start + i) / FPS for i in range(len(part))), part))
    return meter.pictures()


def loudness(sound, rate, block=12_345):
    meter = LoudnessMeter(rate, {1: "mono", 2: "stereo"}[len(sound)])
    blocks = (sound[:, start : start + block].astype(np.float32) for start in range(0, sound.shape[1], block))
    for window in sound_windows(blocks, rate):
        meter.add(window)
    return meter.loudness()


def sine(hz, rate, seconds, decibels, channels=1):
    times = np.arange(rate * seconds) / rate
    return np.tile(10 ** (decibels / 20) * np.sin(2 * np.pi * hz * times), (channels, 1))


def test_a_take_provides_borders_scenes_and_prompts(take):
    subject = open_subject(take)
    assert subject.chunk_borders == tuple(range(16, 192, 16))
    assert subject.latent_borders == tuple(range(4, 192, 4))
    assert [(scene.prompt, scene.cut, scene.frames) for scene in subject.scenes] == [
        (FAST, True, range(96)),
        (SLOW, False, range(96, 192)),
    ]
    assert subject.cuts == ()


def test_a_film_of_two_scenes_matches_its_prompts(inspection):
    assert inspection.grade == "good"
    assert inspection.accuracy.whole == 1
    assert [scene.motion for scene in inspection.scenes] == ["bounces fast", "bounces slow"]
    assert inspection.sync.events == "bounces"
    assert inspection.sync.f1 > 0.9
    assert inspection.missing == ()


def test_json_holds_every_figure_and_its_grade(inspection):
    report = json.loads(json.dumps(inspection.as_dict()))
    assert report["figures"].keys() == report["grades"].keys()
    assert report["container"]["frames"] == 192
    assert report["seams"]["count"] == 10  # the start of the second scene is not a seam
    assert len(report["scenes"]) == 2


def test_the_page_is_self_contained_and_escapes_titles(inspection):
    page = to_html(replace(inspection, subject=replace(inspection.subject, title="<script>alert(1)</script>")))
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page.replace("xlink:href", "href"))
    assert page.count("<svg") == 5
    assert page.count("data:image/png;base64,") >= 24
    for word in ("Seams", "Sound offset", "Drift", "Spectrum", FAST):
        assert word in page


def test_a_bare_film_reports_what_is_missing_and_accepts_a_chunk_length(tmp_path):
    film = true_film(FAST, seconds=5)
    url = write_mp4(tmp_path / "film.mp4", film.frames, film.sound)
    bare, gridded = inspect_film(open_subject(url)), inspect_film(open_subject(url, "0.5s"))
    assert bare.seams is bare.clicks is None
    assert any("--chunk" in line for line in bare.missing)
    assert gridded.seams.count == 9
    assert gridded.sync.events == "bounces"
    with pytest.raises(SpecError, match="--chunk 1ms is less than a frame"):
        open_subject(url, "1ms")


def test_a_silent_film_and_a_film_without_shapes_are_measured_as_far_as_possible(tmp_path):
    film = true_film(FAST, seconds=5)
    silent = inspect_film(open_subject(write_mp4(tmp_path / "silent.mp4", film.frames)))
    assert (silent.sync, silent.sound) == (None, None)
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 160, 3)).astype(np.uint8)
    other = inspect_film(open_subject(write_mp4(tmp_path / "noise.mp4", noise, film.sound)))
    assert other.sync.events == "motion"
    assert other.scenes == ()
    assert to_html(silent)
    assert to_html(other)


@pytest.mark.parametrize("place", ["nothing.mp4", "nowhere"])
def test_a_missing_film_is_refused_with_the_fix(tmp_path, place):
    with pytest.raises((MediaError, SpecError), match="name"):
        open_subject(str(tmp_path / place))


def test_the_command_prints_one_line_of_json_and_writes_the_page(take, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", take, "--against", take, "--json", "--html", str(tmp_path / "deep" / "report.html")])
    assert exit_.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["against"]["equal_frames"] == 192
    assert report["against"]["psnr_db"] is None
    assert report["against"]["sound_equal"] is True
    assert "</html>" in (tmp_path / "deep" / "report.html").read_text()


def test_the_command_prints_a_table(take, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", take])
    out = capsys.readouterr().out
    assert "Seams" in out
    assert "Sync F1" in out


def test_another_film_is_compared_frame_by_frame(tmp_path):
    film = true_film(SLOW, seconds=3)
    noisy = np.clip(film.frames.astype(int) + np.random.default_rng(0).choice([-5, 5], film.frames.shape), 0, 255)
    ours = write_mp4(tmp_path / "a.mp4", film.frames, film.sound)
    theirs = write_mp4(tmp_path / "b.mp4", noisy[:40].astype(np.uint8), 0.5 * film.sound)
    compared = compare_films(ours, theirs)
    assert (compared.frames, compared.extra_frames, compared.equal_frames) == (40, -8, 0)
    assert 30 < compared.psnr_db < 45
    assert 0.5 < compared.ssim < 0.99
    assert compared.sound_snr_db == pytest.approx(6, abs=0.3)
    small = write_mp4(tmp_path / "c.mp4", film.frames[:, :32, :32])
    with pytest.raises(MediaError, match="64x64 and 32x32"):
        compare_films(ours, small)


def test_ssim_is_1_for_equals_and_falls_with_noise():
    frames = torch.from_numpy(true_film(SLOW, seconds=1).frames).float()
    assert ssim(frames, frames) == pytest.approx(1)
    assert ssim(frames, (frames + 40 * torch.randn(frames.shape)).clamp(0, 255)).max() < 0.5


def test_frames_measured_in_blocks_give_the_figures_of_the_whole():
    frames = true_film(FAST, seconds=3).frames
    streamed, whole = measured(frames, 5), measured(frames, 48)
    for name in ("times_s", "change", "jolt", "contrast", "saturation", "sharpness"):
        assert np.allclose(getattr(streamed, name), getattr(whole, name))
    assert streamed.change[10] == pytest.approx(np.abs(frames[10].astype(float) - frames[9]).mean())
    assert list(streamed.stills) == [0, 47]


def test_the_period_of_a_codecs_latents_is_not_a_seam():
    """Every latent border changes 1.5 times as much; chunk borders do not stand out among them."""
    rng = np.random.default_rng(0)
    pictures = measured(true_film(FAST, seconds=8).frames)
    latents = range(4, 128, 4)
    change = 1 + 0.05 * rng.random(128)
    change[list(latents)] *= 1.5
    seams = measure_seams(replace(pictures, change=change), range(16, 128, 16), latents)
    assert seams.ratio > 1.25
    assert seams.latent_ratio == pytest.approx(1, abs=0.03)


def test_the_start_of_a_scene_is_not_a_seam():
    pictures = measured(true_film(FAST, seconds=8).frames)
    change = pictures.change.copy()
    change[64] = 100
    seams = measure_seams(replace(pictures, change=change), range(16, 128, 16), changes=[64])
    assert seams.count == 6
    assert seams.worst_ratio < 1.2


@pytest.mark.parametrize("rate", [44100, 48000])
def test_loudness_of_the_standards_test_signals(rate):
    """EBU Tech 3341, cases 1, 2 and 3: 1 kHz in stereo; the soft beginning and end are gated."""
    assert loudness(sine(1000, rate, 20, -23, 2), rate).integrated_lufs == pytest.approx(-23, abs=0.1)
    assert loudness(sine(1000, rate, 20, -33, 2), rate).integrated_lufs == pytest.approx(-33, abs=0.1)
    gated = np.concatenate([sine(1000, rate, s, level, 2) for s, level in ((10, -36), (60, -23), (10, -36))], axis=1)
    assert loudness(gated, rate).integrated_lufs == pytest.approx(-23, abs=0.1)


def test_loudness_in_windows_equals_that_of_the_whole():
    from torchaudio.functional import loudness as reference

    sound = true_film(FAST, seconds=34).sound[None]
    meter = LoudnessMeter(SAMPLE_RATE, "mono")
    (whole,) = sound_windows([sound], SAMPLE_RATE, core_s=40)
    meter.add(whole)
    found, wanted = loudness(sound, SAMPLE_RATE), meter.loudness()
    assert (found.integrated_lufs, found.true_peak_db) == (wanted.integrated_lufs, wanted.true_peak_db)
    assert np.array_equal(found.steps_db, wanted.steps_db)
    # torchaudio rounds the frequency and the gain of the standard's shelf.
    by_torchaudio = float(reference(torch.from_numpy(sound).double(), SAMPLE_RATE))
    assert wanted.integrated_lufs == pytest.approx(by_torchaudio, abs=0.2)


def test_a_peak_between_samples_is_measured_and_clipping_is_counted():
    quarter = np.sin(np.pi / 2 * np.arange(48_000) + np.pi / 4)[None]  # samples reach 0.707, the wave 1
    quarter *= np.minimum(1, np.minimum(np.arange(48_000), np.arange(48_000)[::-1]) / 480)  # a sudden start overshoots
    measure = loudness(quarter, 48_000)
    assert measure.true_peak_db == pytest.approx(0, abs=0.3)
    assert measure.clipped == 0
    assert loudness(np.clip(2 * sine(100, 48_000, 1, 0), -1, 1), 48_000).clipped > 1000
    silent = loudness(np.zeros((1, 48_000)), 48_000)
    assert (silent.integrated_lufs, silent.true_peak_db) == (None, None)


def test_a_click_at_a_border_is_distinguished_from_hits_on_borders():
    film = true_film(FAST, seconds=30)
    for click in (0, 0.02):
        sound = film.sound.copy()
        sound[7 * SAMPLE_RATE] += click
        meter = ClickMeter([*np.arange(1.0, 30), *film.hits_s[1:-1]])
        for window in sound_windows([sound[None]], SAMPLE_RATE):
            meter.add(window)
        assert (meter.clicks().clicks > 0) == (click > 0)
    assert meter.clicks().worst_s == pytest.approx(7, abs=0.005)


def test_motion_onsets_are_events_accurate_to_a_frame():
    still = np.full((96, 32, 32, 3), 40, dtype=np.uint8)
    for frame in (20, 50, 77):
        for later in range(3):
            still[frame + later :] += 15
    assert motion_events(measured(still)) == pytest.approx([20 / FPS, 50 / FPS, 77 / FPS], abs=0.01)


def test_loudness_of_short_scenes_is_not_compared(inspection):
    assert {drift.loudness_db for drift in inspection.drift.scenes} == {None}
    assert all(abs(drift.contrast) < 0.02 for drift in inspection.drift.scenes)


def test_a_scale_grades_from_its_good_end():
    least = Scale("f1", "F1", 0.8, 0.5, "", least=True)
    assert [least.judge(value).grade for value in (0.9, 0.8, 0.6, 0.4, None)] == ["good", "good", "look", "bad", "told"]
    signed = Scale("offset", "Offset", 20, 40, "", "{:+.0f} ms", signed=True)
    assert [signed.judge(value).grade for value in (-20, -30, -50)] == ["good", "look", "bad"]
    assert (signed.judge(-20).shown, signed.judge(0).limit) == ("-20 ms", "within 20 ms")
