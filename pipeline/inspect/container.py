"""Whether the film's book-keeping adds up: counts, timestamps, and the lengths of picture and sound."""

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.subject import Subject

_FRAME_SHARE = 0.25  # of a frame's time, by which a step may differ: containers count milliseconds at worst
_NAMED_GAPS = 20


@dataclass(frozen=True)
class Container:
    """What was counted.

    Args:
        frames, samples: decoded; `samples` of one channel.
        missing_frames, missing_samples: planned by the take and not there; None without a take.
        extra_samples: samples beyond those that fit into the picture's time; below 0 the sound is short.
        monotone: whether every packet, of picture and sound, starts later than the one before.
        start_apart_s: when the sound starts, less when the picture starts.
        header_apart_s: the longest difference between what a header claims and what is there.
        gaps: how often a frame is not followed by the next after one frame's time.
        gaps_s: when, the first few.
    """

    frames: int
    samples: int
    channels: int
    sample_rate: int
    fps: float
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
    """Count what was decoded against what the container and the take say.

    Args:
        times_s: of every decoded frame [f].
        samples, channels, sample_rate: of the decoded sound; 0 for a silent film.
    """
    video, audio = subject.count.video, subject.count.audio
    frames, frame_s = len(times_s), float(1 / subject.fps)
    uneven = np.abs(np.diff(times_s) - frame_s) > _FRAME_SHARE * frame_s
    claims = [abs(s.header_s - (s.stop_s - s.start_s)) for s in (video, audio) if s is not None and s.header_s]
    return Container(
        frames=frames,
        samples=samples,
        channels=channels,
        sample_rate=sample_rate,
        fps=float(subject.fps),
        seconds=float(frames / subject.fps),
        missing_frames=None if subject.wished_frames is None else subject.wished_frames - frames,
        missing_samples=None if subject.wished_samples is None else subject.wished_samples - samples,
        extra_samples=None if audio is None else samples - floor((video.stop_s - video.start_s) * sample_rate),
        monotone=video.monotone and (audio is None or audio.monotone),
        start_apart_s=None if audio is None else float(audio.start_s - video.start_s),
        header_apart_s=float(max(claims, default=0)),
        gaps=int(uneven.sum()),
        gaps_s=tuple(times_s[:-1][uneven][:_NAMED_GAPS].tolist()),
    )
