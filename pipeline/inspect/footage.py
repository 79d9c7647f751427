"""One pass over a film's pictures and one over its sound: what every measure needs, gathered as they stream by.

What is held grows by about 100 bytes a frame and 40 a second of sound, whatever the picture's size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.clicks import ClickMeter, Clicks
from longtake.pipeline.inspect.loudness import Loudness, LoudnessMeter
from longtake.pipeline.inspect.pictures import PictureMeter, Pictures
from longtake.pipeline.inspect.shapes import Sightings, look
from longtake.pipeline.inspect.sound import window_onsets
from longtake.pipeline.inspect.spectrum import Spectrum, SpectrumMeter
from longtake.pipeline.inspect.subject import Subject
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.media.read import stream_frames, stream_sound

LONGEST_SIDE = 256
"""Larger pictures are measured at this size: seams, drift and motion show at it as well."""
_WORLD_SIDE = 128
_NUM_STILLS = 24


@dataclass(frozen=True)
class Sight:
    """What was seen; `sightings` are those of sounding shapes, None where the pictures are too large for any."""

    pictures: Pictures
    sightings: Sightings | None


@dataclass(frozen=True)
class Hearing:
    """What was heard; `clicks` is None where no chunk border is known."""

    samples: int
    channels: int
    rate: int
    onsets_s: NDArray[np.float64]
    loudness: Loudness
    spectrum: Spectrum
    clicks: Clicks | None


def see(subject: Subject) -> Sight:
    """Go through the pictures."""
    last = max(0, subject.num_frames - 1)
    meter = PictureMeter(keep=np.linspace(0, last, min(_NUM_STILLS, last + 1)).round().astype(int).tolist())
    sightings: list[Sightings] = []
    for block in stream_frames(subject.url, longest_side=LONGEST_SIDE):
        meter.take(block)
        if max(block.frames.shape[1:3]) <= _WORLD_SIDE:
            sightings.append(look(block.frames))
    return Sight(meter.pictures(), Sightings.join(sightings) if sightings else None)


def hear(subject: Subject) -> Hearing | None:
    """Go through the sound; None for a silent film. Onsets are told in seconds of the picture's clock."""
    stream = stream_sound(subject.url)
    if stream is None:
        return None
    fps, start_s = float(subject.fps), float(stream.start_s - subject.count.video.start_s)
    borders, changes = ([frame / fps - start_s for frame in at] for at in (subject.chunk_borders, subject.changes))
    clicks = ClickMeter(borders, changes)
    loudness = LoudnessMeter()
    spectrum = SpectrumMeter(float(subject.num_frames / subject.fps), stream.rate)
    onsets: list[NDArray[np.float64]] = []
    samples = channels = 0
    for window in sound_windows(stream.blocks, stream.rate):
        clicks.take(window)
        loudness.take(window)
        spectrum.take(window)
        onsets.append(window_onsets(window) + start_s)
        samples, channels = window.core.stop, len(window.samples)
    return Hearing(
        samples,
        channels,
        stream.rate,
        np.concatenate(onsets),
        loudness.loudness(),
        spectrum.spectrum(),
        clicks.clicks(),
    )
