"""Loudness by ITU-R BS.1770-4 and EBU R128: FFmpeg's `ebur128` filter, which knows the weights of every channel layout.

Shapes: c channels, n samples, t steps of 100 ms.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, log10

import numpy as np
from av import AudioFrame
from av.filter import Graph
from einops import rearrange
from numpy.typing import NDArray

from longtake.pipeline.inspect.windows import SoundWindow

STEP_S = 0.1
_GATE_LUFS = -70.0  # the filter's integrated loudness where nothing passes the gate
_LEAST_DB = -120.0
_LEAST_PEAK = 1e-3  # the filter rounds to it
_FULL_SCALE = 1 - 2**-15


@dataclass(frozen=True)
class Loudness:
    """Loudness and peaks of a film.

    Args:
        integrated_lufs: gated loudness of the whole film; None if nothing passes the gate.
        true_peak_db: highest peak including those between samples, in dBFS; None below -60 dB.
        clipped: samples at full scale next to another one at full scale.
        steps_db: momentary loudness, over 400 ms, of every 100 ms [t]; -120 for silence, as in the first 300 ms.
    """

    integrated_lufs: float | None
    true_peak_db: float | None
    clipped: int
    steps_db: NDArray[np.float32]


class LoudnessMeter:
    """Measures the loudness of consecutive windows.

    Args:
        rate: samples per second.
        layout: FFmpeg's name of the channels, such as "stereo" or "5.1".
    """

    def __init__(self, rate: int, layout: str) -> None:
        self._rate, self._layout = rate, layout
        self._graph = Graph()
        source = self._graph.add_abuffer(sample_rate=rate, format="flt", layout=layout, time_base=Fraction(1, rate))
        meter = self._graph.add("ebur128", "metadata=1:peak=true:framelog=quiet")
        source.link_to(meter)
        meter.link_to(self._graph.add("abuffersink"))
        self._graph.configure()
        self._steps_db: list[float] = []
        self._integrated_lufs = _GATE_LUFS
        self._peak = 0.0
        self._clipped = 0

    def add(self, window: SoundWindow) -> None:
        """Measure the next window."""
        sound = window.samples[:, window.core.start - window.start : window.core.stop - window.start]
        packed = np.ascontiguousarray(rearrange(sound, "c n -> 1 (n c)"))
        frame = AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), window.core.start
        self._graph.push(frame)
        self._pull()
        self._clipped += _clipped(sound)

    def loudness(self) -> Loudness:
        """The result; no window may follow."""
        self._graph.push(None)
        self._pull()
        return Loudness(
            integrated_lufs=self._integrated_lufs if self._integrated_lufs > _GATE_LUFS else None,
            true_peak_db=20 * log10(self._peak) if self._peak >= _LEAST_PEAK else None,
            clipped=self._clipped,
            steps_db=np.array(self._steps_db, dtype=np.float32),
        )

    def _pull(self) -> None:
        """Read what the filter has measured so far: one frame every 100 ms, whose figures are texts."""
        while True:
            try:
                figures = self._graph.pull().metadata
            except (BlockingIOError, EOFError):
                return
            if figures:  # the rest of less than 100 ms has none
                momentary = float(figures["lavfi.r128.M"])
                self._steps_db.append(max(_LEAST_DB, momentary) if isfinite(momentary) else _LEAST_DB)
                self._integrated_lufs = float(figures["lavfi.r128.I"])
                self._peak = float(figures["lavfi.r128.true_peak"])


def _clipped(sound: NDArray[np.float32]) -> int:
    full = np.abs(sound) >= _FULL_SCALE
    neighbour_full = np.zeros_like(full)
    neighbour_full[:, 1:] |= full[:, :-1]
    neighbour_full[:, :-1] |= full[:, 1:]
    return int((full & neighbour_full).sum())
