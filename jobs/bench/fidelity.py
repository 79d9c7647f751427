"""Whether the shipped model follows its prompts, keeps sound and picture in sync, and stays stable for minutes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import nan
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torchaudio
from einops import reduce

from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.film_ratings import FilmToRate, Rating, rate_all
from longtake.pipeline.film import render
from longtake.pipeline.inspect.sync import TOLERANCE_S, match, slope_ms_per_min
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.training.data import World
from longtake.pipeline.training.world import CAPTIONS, HELD_OUT, Caption
from longtake.pipeline.weights.load import load_model

MODEL = "sounding-shapes"
UNSEEN_STEP = 10**9 + 100
"""A step that no training reaches, so that its clips are held out."""


@dataclass(frozen=True)
class Films:
    """How many films are rendered, and how long they are in seconds.

    Args:
        stride: one of so many captions gets a film.
        short, minute, long: lengths of the films for prompts and sync, and for the drift of one and of ten minutes.
        minutes: how many films are a minute long.
        clips: true clips that go through the codecs.
        workers: processes that render.
    """

    stride: int
    short: int
    minute: int
    long: int
    minutes: int = 8
    clips: int = 64
    workers: int = os.cpu_count() or 1


FULL, QUICK = Films(1, short=10, minute=60, long=600), Films(10, short=10, minute=6, long=60)
SMOKE = Films(100, short=2, minute=2, long=2, minutes=1, clips=2, workers=1)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures of the shipped weights, or of `options.model`."""
    name = options.model or MODEL
    model = load_model(name)
    torch.set_num_threads(1)
    films = options.pick(full=FULL, quick=QUICK, smoke=SMOKE)
    captions = sample_captions(options.seed)
    if films.stride > 1:
        captions = [*HELD_OUT[:1], *captions[:: films.stride]]
    short = [FilmToRate(caption, films.short, options.seed + number) for number, caption in enumerate(captions)]
    apart = [FilmToRate(film.caption, film.seconds, film.seed, apart=True) for film in short[::2]]
    chosen = short[:: max(1, len(short) // films.minutes)][: films.minutes]
    minute = [FilmToRate(film.caption, films.minute, film.seed + 1000) for film in chosen]
    long = [FilmToRate(short[0].caption, films.long, options.seed + 2000)]
    ratings = iter(rate_all(name, [*short, *apart, *minute, *long], films.workers))
    short_ratings, apart_ratings, minute_ratings, long_ratings = (
        [next(ratings) for _ in part] for part in (short, apart, minute, long)
    )
    return {
        **_codecs(model, options, films.clips),
        **_prompts(short_ratings, apart_ratings),
        **_sync(short_ratings, apart_ratings, [*minute_ratings, *long_ratings]),
        **_stability([*minute_ratings, *long_ratings], minute_ratings, long_ratings),
        "seam_ratio_truth": _truth_seams(model, options, 3 * films.clips // 4),
        "realtime_factor": realtime_factor(model, options, str(HELD_OUT[0])),
    }


def sample_captions(seed: int) -> list[Caption]:
    """A hundred captions: the held-out ones, all others with sound, and some that are silent."""
    sounding = [caption for caption in CAPTIONS if caption.sounds and caption not in HELD_OUT]
    silent = [caption for caption in CAPTIONS if not caption.sounds]
    chosen = np.random.default_rng(seed).permutation(len(silent))[: 100 - len(HELD_OUT) - len(sounding)]
    mixed = [*HELD_OUT, *sounding, *(silent[number] for number in chosen)]
    return [mixed[number] for number in np.random.default_rng(seed + 1).permutation(len(mixed))]


def _prompts(ratings: Sequence[Rating], apart: Sequence[Rating]) -> dict[str, float]:
    return {
        "prompt_accuracy": mean(rating.accurate for rating in ratings),
        "prompt_accuracy_held_out": _mean(rating.accurate for rating in ratings if rating.film.caption in HELD_OUT),
        "prompt_accuracy_apart": mean(rating.accurate for rating in apart),
        "teleports_per_min": 60 * sum(r.teleports for r in ratings) / sum(r.film.seconds for r in ratings),
    }


def _sync(ratings: Sequence[Rating], apart: Sequence[Rating], long: Sequence[Rating]) -> dict[str, float]:
    sounding = [rating for rating in ratings if rating.film.caption.sounds]
    whole, shifted = PooledMatches(sounding), PooledMatches(sounding, shifted=True)
    slow, fast = (PooledMatches([r for r in sounding if r.film.caption.speed == speed]) for speed in ("slow", "fast"))
    held_out = PooledMatches([rating for rating in sounding if rating.film.caption in HELD_OUT])
    alone = [rating for rating in apart if rating.film.caption.sounds]
    times, offsets = PooledMatches([rating for rating in long if rating.film.caption.sounds]).centred()
    return {
        "onset_f1": whole.f1,
        "onset_f1_shifted": shifted.f1,
        "onset_f1_slow": slow.f1,
        "onset_f1_fast": fast.f1,
        "onset_f1_held_out": held_out.f1,
        "onset_f1_40ms": PooledMatches(sounding, tolerance_s=0.04).f1,
        "onset_f1_apart": PooledMatches(alone).f1,
        "onset_f1_apart_shifted": PooledMatches(alone, shifted=True).f1,
        "silent_onsets_per_min": 6 * _mean(len(r.onsets_s) for r in ratings if not r.film.caption.sounds),
        "offset_ms": abs(whole.offset_ms),
        "offset_ms_shifted": abs(shifted.offset_ms),
        "offset_abs_ms": whole.offset_abs_ms,
        "offset_abs_ms_shifted": shifted.offset_abs_ms,
        "sync_drift_ms_per_min": abs(slope_ms_per_min(times, offsets) or 0.0),
    }


class PooledMatches:
    """Hits and onsets of several films, matched within each film and counted together.

    Args:
        shifted: shift the sound of each film cyclically by half its length, which gives the figure of chance.
    """

    def __init__(self, ratings: Sequence[Rating], shifted: bool = False, tolerance_s: float = TOLERANCE_S) -> None:
        matches = []
        for rating in ratings:
            length_s = rating.film.seconds
            onsets = (rating.onsets_s + length_s / 2) % length_s if shifted else rating.onsets_s
            matches.append(match(rating.hits_s, onsets, tolerance_s))
        pairs = sum(len(found.pairs) for found in matches)
        self.f1 = 2 * pairs / max(1, sum(found.num_events + found.num_onsets for found in matches))
        self._pairs = [np.array(found.pairs).reshape(-1, 2) for found in matches]

    @property
    def offset_ms(self) -> float:
        """The signed median of onset - hit."""
        return float(np.median(self._offsets())) if len(self._offsets()) else nan

    @property
    def offset_abs_ms(self) -> float:
        """The median of |onset - hit|."""
        return float(np.median(np.abs(self._offsets()))) if len(self._offsets()) else nan

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Times of hits, and their offsets minus the median offset of the film, in seconds."""
        times = [pairs[:, 0] for pairs in self._pairs if len(pairs)]
        offsets = [np.diff(pairs)[:, 0] - np.median(np.diff(pairs)) for pairs in self._pairs if len(pairs)]
        return np.concatenate([np.zeros(0), *times]), np.concatenate([np.zeros(0), *offsets])

    def _offsets(self) -> np.ndarray:
        return 1000 * np.concatenate([np.zeros(0), *(np.diff(pairs)[:, 0] for pairs in self._pairs)])


def _stability(ratings: Sequence[Rating], minute: Sequence[Rating], long: Sequence[Rating]) -> dict[str, float]:
    seams, latents = (np.concatenate([getattr(r, kind) for r in ratings]) for kind in ("at_chunks", "at_latents"))
    return {
        "seam_ratio": float(seams.mean() / latents.mean()),
        "std_drift_1min": max(abs(rating.contrast_drift) for rating in minute),
        "saturation_drift_1min": max(abs(rating.saturation_drift) for rating in minute),
        "std_drift_10min": max(abs(rating.contrast_drift) for rating in long),
        "saturation_drift_10min": max(abs(rating.saturation_drift) for rating in long),
    }


@torch.inference_mode()
def _codecs(model: EmbeddedModel, options: BenchOptions, num_clips: int) -> dict[str, float]:
    clips = World().draw((options.seed, UNSEEN_STEP), range(num_clips), Fraction(4))
    decoded, _ = model.video_codec.decode(model.video_codec.encode(clips.frames), None)
    error = reduce((decoded.clamp(-1, 1) - clips.frames) ** 2, "b f c h w -> b", "mean") / 4
    sound, _ = model.sound_codec.decode(model.sound_codec.encode(clips.sound), None, final=True)
    length = clips.sound.shape[1] - model.config.sound_codec.hop  # no samples follow to complete the last hop
    mel = torchaudio.transforms.MelSpectrogram(model.config.sound_codec.sample_rate, n_fft=1024, n_mels=64)
    levels = [10 * torch.log10(mel(pcm[:, :length]) + 1e-4) for pcm in (sound, clips.sound)]
    return {
        "codec_psnr_db": float((-10 * torch.log10(error)).mean()),
        "sound_log_mel_error": float((levels[0] - levels[1]).abs().mean()),
    }


@torch.inference_mode()
def _truth_seams(model: EmbeddedModel, options: BenchOptions, num_clips: int) -> float:
    """The seam ratio of true clips that are encoded and decoded."""
    clips = World().draw((options.seed, UNSEEN_STEP + 1), range(num_clips), Fraction(6))
    decoded, _ = model.video_codec.decode(model.video_codec.encode(clips.frames), None)
    change = reduce((decoded[:, 1:] - decoded[:, :-1]).abs(), "b f c h w -> f", "mean")
    frames = np.arange(1, decoded.shape[1])
    chunk = model.config.chunk_latents * 4
    return float(change[frames % chunk == 0].mean() / change[(frames % 4 == 0) & (frames % chunk != 0)].mean())


def realtime_factor(model: EmbeddedModel, options: BenchOptions, prompt: str) -> float:
    """Seconds of film per second of the pipeline in one process, with the defaults of a storyboard."""
    length_s = options.pick(full=20, quick=20, smoke=1)
    scene = f"{{prompt: {prompt}, duration: {length_s}s}}"
    storyboard = parse_storyboard(f"{{seed: {options.seed}, scenes: [{scene}]}}")
    with TemporaryDirectory() as folder:
        take = open_take(plan_film(storyboard, model), model, Store(folder), numerics(model))
        started = perf_counter()
        render(take, SILENT)
        return length_s / (perf_counter() - started)


def _mean(values: Iterable[float]) -> float:
    """The mean, or NaN of nothing."""
    known = list(values)
    return mean(known) if known else nan
