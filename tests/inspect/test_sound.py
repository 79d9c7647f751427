import numpy as np
import pytest

from longtake.pipeline.inspect.sound import onsets, window_onsets
from longtake.pipeline.inspect.sync import match, merged
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.training.world import CAPTIONS, SAMPLE_RATE
from tests.inspect.shapes_film import true_film

SOUNDING = [str(caption) for caption in CAPTIONS if caption.sounds]


def test_overlapping_tones_of_equal_pitch_are_found_to_10_ms():
    scores, chances, offsets = [], [], []
    for seed, prompt in enumerate(SOUNDING[::5]):
        film = true_film(prompt, seed=seed)
        sync = match(merged(film.hits_s, 0.03), onsets(film.sound, SAMPLE_RATE), 0.01, film.seconds)
        scores.append(sync.f1)
        chances.append(match(film.hits_s, onsets(film.sound, SAMPLE_RATE), duration_s=film.seconds).chance_f1)
        offsets += [onset - hit for hit, onset in sync.pairs]
    assert np.mean(scores) > 0.98
    assert np.mean(chances) < 0.2
    assert np.abs(offsets).mean() < 0.003


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_clicks_are_found_at_any_rate(rate):
    sound = np.random.default_rng(0).normal(0, 1e-3, 4 * rate)
    for time_s in (0.5, 1.25, 3.1):
        sound[round(time_s * rate) :][: rate // 100] += 0.5
    assert onsets(sound, rate) == pytest.approx([0.5, 1.25, 3.1], abs=0.005)


def test_stereo_is_measured_as_the_mean_of_its_channels():
    film = true_film(SOUNDING[0], seconds=4)
    assert onsets(np.stack([film.sound, film.sound]), SAMPLE_RATE) == pytest.approx(onsets(film.sound, SAMPLE_RATE))


@pytest.mark.parametrize("num_samples", [0, 1, 100, SAMPLE_RATE])
def test_silence_holds_no_onset(num_samples):
    assert len(onsets(np.zeros(num_samples), SAMPLE_RATE)) == 0


def test_a_decaying_tone_holds_no_onset():
    times = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    assert len(onsets(np.sin(2 * np.pi * 440 * times) * np.exp(-times), SAMPLE_RATE)) == 0


def test_background_hiss_adds_no_onsets():
    film = true_film("a red circle bounces slow on a dark background", seconds=12)
    noise = np.random.default_rng(0).normal(0, 1, len(film.sound))
    hiss = 0.02 * np.convolve(noise, np.hanning(40) / 20, mode="same")  # low and fluttering, like a codec's
    assert onsets(film.sound + hiss, SAMPLE_RATE) == pytest.approx(onsets(film.sound, SAMPLE_RATE), abs=0.01)


@pytest.mark.parametrize("block", [1000, 16000, 250_000])
def test_a_film_in_windows_has_the_onsets_of_the_whole(block):
    film = true_film("a red circle bounces fast on a dark background", seconds=35)
    blocks = [film.sound[None, start : start + block] for start in range(0, len(film.sound), block)]
    streamed = np.concatenate([window_onsets(window) for window in sound_windows(blocks, SAMPLE_RATE)])
    assert streamed == pytest.approx(onsets(film.sound, SAMPLE_RATE), abs=0.001)


@pytest.mark.parametrize("num_samples", [0, 1, 7, 160_000, 160_001, 176_000, 320_000, 333_333])
def test_windows_tile_a_film_with_margins_of_a_second(num_samples):
    sound = np.arange(num_samples, dtype=np.float32)[None]
    windows = list(sound_windows(np.array_split(sound, 9, axis=1), SAMPLE_RATE))
    assert [sample for window in windows for sample in window.core] == list(range(num_samples))
    for window in windows:
        assert np.array_equal(window.samples[0], sound[0, window.start : window.start + window.samples.shape[1]])
        assert window.start == max(0, window.core.start - SAMPLE_RATE)
        assert window.start + window.samples.shape[1] == min(num_samples, window.core.stop + SAMPLE_RATE)
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True] * bool(windows)
