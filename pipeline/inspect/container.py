"""Consistency of a film file: counts, timestamps, and the lengths of picture and sound."""

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.subject import Subject

_FRAME_SHARE = 0.25  # tolerance of a frame's duration: some containers store timestamps in milliseconds
_NAMED_GAPS = 20


@dataclass(frozen=True)
class Container:
    """Counts and timestamps of a film file.

    Args:
        frames, samples: number decoded; `samples` per channel.
        missing_frames, missing_samples: planned by the take but absent from the file; None without a take.
        extra_samples: samples beyond the picture's duration; below 0 the sound is short.
        monotone: whether timestamps strictly increase in both streams.
        start_apart_s: start time of the sound minus that of the picture.
        steady: whether frames keep one rate; without, `fps` is their mean, and nothing counts as a gap.
        header_apart_s: largest difference between a duration in a header and the measured one.
        gaps: number of frames that are not followed by the next after one frame's duration.
        gaps_s: times of the first few gaps.
    """

    frames: int
    samples: int
    channels: int
    sample_rate: int
    fps: float
    steady: bool
    seconds: float
    missing_frames: int | None
    missing_samples: int | None
    extra_samples: int | None
    monotone: bool
    start_apart_s: float | None
    header_apart_s: float
    gaps: int
    gaps_s: tuple[float, ...]


def check_container(
    subject: Subject, times_s: NDArray[np.float64], samples: int, channels: int, sample_rate: int
) -> Container:
    """Compare the decoded counts with what the container and the take state.

    Args:
        times_s: presentation time of every decoded frame [f].
        samples, channels, sample_rate: of the decoded sound; 0 for a silent film.
    """
    video, audio = subject.count.video, subject.count.audio
    frames, frame_s = len(times_s), float(1 / subject.fps)
    uneven = (np.abs(np.diff(times_s) - frame_s) > _FRAME_SHARE * frame_s) & subject.steady
    claims = [abs(s.header_s - (s.stop_s - s.start_s)) for s in (video, audio) if s is not None and s.header_s]
    return Container(
        frames=frames,
        samples=samples,
        channels=channels,
        sample_rate=sample_rate,
        fps=float(subject.fps),
        steady=subject.steady,
        seconds=float(frames / subject.fps),
        missing_frames=None if subject.planned_frames is None else subject.planned_frames - frames,
        missing_samples=None if subject.planned_samples is None else subject.planned_samples - samples,
        extra_samples=None if audio is None else samples - floor((video.stop_s - video.start_s) * sample_rate),
        monotone=video.monotone and (audio is None or audio.monotone),
        start_apart_s=None if audio is None else float(audio.start_s - video.start_s),
        header_apart_s=float(max(claims, default=0)),
        gaps=int(uneven.sum()),
        gaps_s=tuple(times_s[:-1][uneven][:_NAMED_GAPS].tolist()),
    )
