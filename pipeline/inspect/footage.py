"""One streaming pass over a film's pictures and one over its sound collect what all measures need.

Memory grows by about 100 bytes per frame and 40 bytes per second of sound, independent of the picture's size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from longtake.pipeline.footage.cuts import HEIGHT, THRESHOLD, WIDTH, Grey, find_cuts
from longtake.pipeline.inspect.clicks import ClickMeter, Clicks
from longtake.pipeline.inspect.loudness import Loudness, LoudnessMeter
from longtake.pipeline.inspect.pictures import LUMA, PictureMeter, Pictures
from longtake.pipeline.inspect.shapes import Sightings, detect_shapes
from longtake.pipeline.inspect.sound import window_onsets
from longtake.pipeline.inspect.spectrum import Spectrum, SpectrumMeter
from longtake.pipeline.inspect.subject import Subject
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.media.read import stream_frames
from longtake.pipeline.media.sound import stream_sound

LONGEST_SIDE = 256
"""Larger pictures are scaled to this size first; seams, drift and motion are still visible at it."""
_WORLD_SIDE = 128
_NUM_STILLS = 24


@dataclass(frozen=True)
class VideoMeasures:
    """Measures of the pictures.

    Args:
        sightings: of sounding shapes; None for pictures too large to show any.
        cuts: first frames of shots, found in the pictures.
    """

    pictures: Pictures
    sightings: Sightings | None
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class AudioMeasures:
    """Measures of the sound; `clicks` is None if no chunk borders are known."""

    samples: int
    channels: int
    rate: int
    onsets_s: NDArray[np.float64]
    loudness: Loudness
    spectrum: Spectrum
    clicks: Clicks | None


def measure_video(subject: Subject, measured: Callable[[int], object] = lambda _: None) -> VideoMeasures:
    """Measure all pictures in one pass.

    Args:
        measured: is called with the number of pictures that are measured, every few pictures.
    """
    last = max(0, subject.num_frames - 1)
    meter = PictureMeter(keep=np.linspace(0, last, min(_NUM_STILLS, last + 1)).round().astype(int).tolist())
    sightings: list[Sightings] = []

    def small_pictures() -> Iterator[tuple[int, Grey]]:
        number = 0
        for block in stream_frames(subject.url, longest_side=LONGEST_SIDE, size=subject.count.size):
            meter.add(block)
            if max(block.frames.shape[1:3]) <= _WORLD_SIDE:
                sightings.append(detect_shapes(block.frames))
            for small in _small(block.frames):
                yield number, small
                number += 1
            measured(number)

    cuts = find_cuts(small_pictures(), THRESHOLD)
    return VideoMeasures(meter.pictures(), Sightings.join(sightings) if sightings else None, tuple(cuts))


def _small(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey pictures [f h w] of the size that the search for cuts needs, each pixel the mean of its area."""
    grey = torch.from_numpy(frames.astype(np.float32) @ LUMA)
    return interpolate(grey[:, None], (HEIGHT, WIDTH), mode="area")[:, 0].round().to(torch.uint8).numpy()


def measure_audio(subject: Subject) -> AudioMeasures | None:
    """Measure the sound in one pass; None for a silent film. Onset times count from the first frame."""
    stream = stream_sound(subject.url, size=subject.count.size)
    if stream is None:
        return None
    fps, start_s = float(subject.fps), float(stream.start_s - subject.count.video.start_s)
    borders, changes = ([frame / fps - start_s for frame in at] for at in (subject.chunk_borders, subject.changes))
    clicks = ClickMeter(borders, changes)
    loudness = LoudnessMeter(stream.rate, stream.layout)
    spectrum = SpectrumMeter(float(subject.num_frames / subject.fps), stream.rate)
    onsets: list[NDArray[np.float64]] = []
    samples = channels = 0
    for window in sound_windows(stream.blocks, stream.rate):
        clicks.add(window)
        loudness.add(window)
        spectrum.add(window)
        onsets.append(window_onsets(window) + start_s)
        samples, channels = window.core.stop, len(window.samples)
    return AudioMeasures(
        samples,
        channels,
        stream.rate,
        np.concatenate(onsets),
        loudness.loudness(),
        spectrum.spectrum(),
        clicks.clicks(),
    )
