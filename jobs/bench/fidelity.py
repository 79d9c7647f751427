"""Whether the shipped model does what it is asked, in step, for minutes."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import nan
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torchaudio
from einops import reduce

from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.bench.screening import Notes, Showing, screen
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
"""A step that no training reaches: its clips are held out."""


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures of the shipped weights; `quick` makes a tenth of the films."""
    model = load_model(MODEL)
    torch.set_num_threads(1)
    tenth = 10 if options.quick else 1
    captions = [*HELD_OUT[:1], *showcase(options.seed)[::tenth]] if options.quick else showcase(options.seed)
    short = [Showing(caption, 10, options.seed + number) for number, caption in enumerate(captions)]
    apart = [Showing(show.caption, show.seconds, show.seed, apart=True) for show in short[::2]]
    minute = [Showing(show.caption, 60 // tenth, show.seed + 1000) for show in short[:: max(1, len(short) // 8)][:8]]
    long = [Showing(short[0].caption, 600 // tenth, options.seed + 2000)]
    notes = screen(MODEL, [*short, *apart, *minute, *long], workers=os.cpu_count() or 1)
    parts = iter(notes)
    short_notes, apart_notes, minute_notes, long_notes = (
        [next(parts) for _ in showings] for showings in (short, apart, minute, long)
    )
    return {
        **_codecs(model, options),
        **_prompts(short_notes, apart_notes),
        **_sync(short_notes, apart_notes, [*minute_notes, *long_notes]),
        **_stability([*minute_notes, *long_notes], minute_notes, long_notes),
        "seam_ratio_truth": _truth_seams(model, options),
        "realtime_factor": _realtime_factor(model, options),
    }


def showcase(seed: int) -> list[Caption]:
    """A hundred captions: the held-out ones, all others that sound, and some that are silent."""
    sounding = [caption for caption in CAPTIONS if caption.sounds and caption not in HELD_OUT]
    silent = [caption for caption in CAPTIONS if not caption.sounds]
    chosen = np.random.default_rng(seed).permutation(len(silent))[: 100 - len(HELD_OUT) - len(sounding)]
    mixed = [*HELD_OUT, *sounding, *(silent[number] for number in chosen)]
    return [mixed[number] for number in np.random.default_rng(seed + 1).permutation(len(mixed))]


def _prompts(notes: Sequence[Notes], apart: Sequence[Notes]) -> dict[str, float]:
    return {
        "prompt_accuracy": mean(note.accurate for note in notes),
        "prompt_accuracy_held_out": _mean(note.accurate for note in notes if note.showing.caption in HELD_OUT),
        "prompt_accuracy_apart": mean(note.accurate for note in apart),
        "teleports_per_min": 60 * sum(n.teleports for n in notes) / sum(n.showing.seconds for n in notes),
    }


def _sync(notes: Sequence[Notes], apart: Sequence[Notes], long: Sequence[Notes]) -> dict[str, float]:
    sounding = [note for note in notes if note.showing.caption.sounds]
    whole, shifted = Pool(sounding), Pool(sounding, shifted=True)
    slow, fast = (Pool([n for n in sounding if n.showing.caption.speed == speed]) for speed in ("slow", "fast"))
    held_out = Pool([note for note in sounding if note.showing.caption in HELD_OUT])
    alone = [note for note in apart if note.showing.caption.sounds]
    times, offsets = Pool([note for note in long if note.showing.caption.sounds]).centred()
    return {
        "onset_f1": whole.f1,
        "onset_f1_shifted": shifted.f1,
        "onset_f1_slow": slow.f1,
        "onset_f1_fast": fast.f1,
        "onset_f1_held_out": held_out.f1,
        "onset_f1_40ms": Pool(sounding, tolerance_s=0.04).f1,
        "onset_f1_apart": Pool(alone).f1,
        "onset_f1_apart_shifted": Pool(alone, shifted=True).f1,
        "silent_onsets_per_min": 6 * _mean(len(n.onsets_s) for n in notes if not n.showing.caption.sounds),
        "offset_ms": abs(whole.offset_ms),
        "offset_ms_shifted": abs(shifted.offset_ms),
        "offset_abs_ms": whole.offset_abs_ms,
        "offset_abs_ms_shifted": shifted.offset_abs_ms,
        "sync_drift_ms_per_min": abs(slope_ms_per_min(times, offsets) or 0.0),
    }


class Pool:
    """Hits and onsets of several films, matched film by film and counted together.

    Args:
        shifted: with each film's sound moved round by half its length, for what chance gives.
    """

    def __init__(self, notes: Sequence[Notes], shifted: bool = False, tolerance_s: float = TOLERANCE_S) -> None:
        matches = []
        for note in notes:
            length_s = note.showing.seconds
            onsets = (note.onsets_s + length_s / 2) % length_s if shifted else note.onsets_s
            matches.append(match(note.hits_s, onsets, tolerance_s))
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
        """Times of hits, and offsets less their film's median, in seconds."""
        times = [pairs[:, 0] for pairs in self._pairs if len(pairs)]
        offsets = [np.diff(pairs)[:, 0] - np.median(np.diff(pairs)) for pairs in self._pairs if len(pairs)]
        return np.concatenate([np.zeros(0), *times]), np.concatenate([np.zeros(0), *offsets])

    def _offsets(self) -> np.ndarray:
        return 1000 * np.concatenate([np.zeros(0), *(np.diff(pairs)[:, 0] for pairs in self._pairs)])


def _stability(notes: Sequence[Notes], minute: Sequence[Notes], long: Sequence[Notes]) -> dict[str, float]:
    seams, latents = (np.concatenate([getattr(n, kind) for n in notes]) for kind in ("at_chunks", "at_latents"))
    return {
        "seam_ratio": float(seams.mean() / latents.mean()),
        "std_drift_1min": max(abs(note.contrast_drift) for note in minute),
        "saturation_drift_1min": max(abs(note.saturation_drift) for note in minute),
        "std_drift_10min": max(abs(note.contrast_drift) for note in long),
        "saturation_drift_10min": max(abs(note.saturation_drift) for note in long),
    }


@torch.inference_mode()
def _codecs(model: EmbeddedModel, options: BenchOptions) -> dict[str, float]:
    clips = World().draw((options.seed, UNSEEN_STEP), range(64), Fraction(4))
    decoded, _ = model.video_codec.decode(model.video_codec.encode(clips.frames), None)
    error = reduce((decoded.clamp(-1, 1) - clips.frames) ** 2, "b f c h w -> b", "mean") / 4
    sound, _ = model.sound_codec.decode(model.sound_codec.encode(clips.sound), None, final=True)
    length = clips.sound.shape[1] - model.config.sound_codec.hop  # nothing follows that could complete the last hop
    mel = torchaudio.transforms.MelSpectrogram(model.config.sound_codec.sample_rate, n_fft=1024, n_mels=64)
    levels = [10 * torch.log10(mel(pcm[:, :length]) + 1e-4) for pcm in (sound, clips.sound)]
    return {
        "codec_psnr_db": float((-10 * torch.log10(error)).mean()),
        "sound_log_mel_error": float((levels[0] - levels[1]).abs().mean()),
    }


@torch.inference_mode()
def _truth_seams(model: EmbeddedModel, options: BenchOptions) -> float:
    """The seam ratio of true clips that went through the codec."""
    clips = World().draw((options.seed, UNSEEN_STEP + 1), range(48), Fraction(6))
    decoded, _ = model.video_codec.decode(model.video_codec.encode(clips.frames), None)
    change = reduce((decoded[:, 1:] - decoded[:, :-1]).abs(), "b f c h w -> f", "mean")
    frames = np.arange(1, decoded.shape[1])
    chunk = model.config.chunk_latents * 4
    return float(change[frames % chunk == 0].mean() / change[(frames % 4 == 0) & (frames % chunk != 0)].mean())


def _realtime_factor(model: EmbeddedModel, options: BenchOptions) -> float:
    """Seconds of film per second of the whole road in one process, everything as a storyboard has it by default."""
    storyboard = parse_storyboard(f"{{seed: {options.seed}, scenes: [{{prompt: {HELD_OUT[0]}, duration: 20s}}]}}")
    with TemporaryDirectory() as folder:
        take = open_take(plan_film(storyboard, model), model, Store(folder), numerics(model))
        started = perf_counter()
        render(take, SILENT)
        return 20 / (perf_counter() - started)


def _mean(values: object) -> float:
    known = list(values)  # type: ignore[call-overload]
    return mean(known) if known else nan


BENCH = Bench(
    {
        "codec_psnr_db": Figure("mean PSNR of held-out clips through the video codec", at_least=30),
        "sound_log_mel_error": Figure("mean difference of log mel levels through the sound codec, dB"),
        "prompt_accuracy": Figure("share of films with colour, shape, background and motion right", at_least=0.9),
        "prompt_accuracy_held_out": Figure("the same over captions never trained on"),
        "prompt_accuracy_apart": Figure("the same where the two streams may not see each other", at_least=0.8),
        "teleports_per_min": Figure("jumps of more than 8 pixels"),
        "onset_f1": Figure("sounds against wall hits, 62.5 ms", at_least=0.65),
        "onset_f1_shifted": Figure("the same with the sound shifted by half a film: chance", at_most=0.25),
        "onset_f1_slow": Figure("of slow prompts"),
        "onset_f1_fast": Figure("of fast prompts"),
        "onset_f1_held_out": Figure("of captions never trained on"),
        "onset_f1_40ms": Figure("within 40 ms"),
        "onset_f1_apart": Figure("where the two streams may not see each other"),
        "onset_f1_apart_shifted": Figure("the same, shifted: chance"),
        "silent_onsets_per_min": Figure("sounds where the prompt asks for silence"),
        "offset_ms": Figure("absolute value of the median offset of sound against picture", at_most=16),
        "offset_ms_shifted": Figure("the same, shifted"),
        "offset_abs_ms": Figure("median absolute offset", at_most=24),
        "offset_abs_ms_shifted": Figure("the same, shifted"),
        "sync_drift_ms_per_min": Figure("growth of the offset over the long films, pooled", at_most=5),
        "seam_ratio": Figure("change at chunk borders over that at other latents' borders", at_most=1.05),
        "seam_ratio_truth": Figure("the same of true clips through the codec"),
        "std_drift_1min": Figure("largest change of contrast, one-minute films", at_most=0.05),
        "saturation_drift_1min": Figure("largest change of saturation, one-minute films", at_most=0.05),
        "std_drift_10min": Figure("change of contrast over ten minutes", at_most=0.1),
        "saturation_drift_10min": Figure("change of saturation over ten minutes", at_most=0.1),
        "realtime_factor": Figure("seconds of film per second, whole road in one process", at_least=1),
    },
    measure,
    once=True,
)
