"""A sound stream split into overlapping windows, so that hours are measured in constant memory.

Shapes: c channels, n samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

CORE_S, MARGIN_S = 10, 1


@dataclass(frozen=True)
class SoundWindow:
    """A core with margins: a measure reads the whole window and reports on `core` only. The cores tile the film.

    Args:
        samples: float32 [c n]; the margins are shorter at the film's start and end.
        start: index of the first sample in the film.
        core: the film's samples to report on.
        rate: samples per second.
    """

    samples: Samples
    start: int
    core: range
    rate: int

    @property
    def is_last(self) -> bool:
        """Whether this is the film's last window."""
        return bool(self.core.stop == self.start + self.samples.shape[1])

    def mono(self) -> NDArray[np.float64]:
        """The mean of all channels [n]."""
        mean: NDArray[np.float64] = self.samples.mean(axis=0, dtype=np.float64)
        return mean


def sound_windows(
    blocks: Iterable[Samples], rate: int, core_s: int = CORE_S, margin_s: int = MARGIN_S
) -> Iterator[SoundWindow]:
    """Split blocks [c n] of any length into windows; the last core may be shorter, but is never empty."""
    core, margin = core_s * rate, margin_s * rate
    held, start, done = np.zeros((0, 0), dtype=np.float32), 0, 0
    for block in blocks:
        held = np.concatenate((held, block), axis=1) if held.size else block
        while start + held.shape[1] > done + core + margin:
            yield SoundWindow(held[:, : done + core + margin - start], start, range(done, done + core), rate)
            done += core
            held, start = held[:, max(0, done - margin - start) :], max(start, done - margin)
    stop = start + held.shape[1]
    while done < stop:
        end = min(done + core, stop)
        yield SoundWindow(held[:, max(0, done - margin - start) :], max(start, done - margin), range(done, end), rate)
        done = end
