"""Motion events in any film: the frames at which motion sets in.

This is the video half of AV-Align (Yariv et al., 2023) without optical flow: an event is a peak in the growth of
motion. It is coarser than tracking a shape: accurate to one frame at best, and blind to turns at constant speed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.pictures import Pictures
from longtake.pipeline.inspect.sound import local_maxima

Array = NDArray[np.float64]

_APART_S = 0.1
_LEAST_SPREADS = 4.0
_LEAST_GROWTH = 0.2  # 8-bit units
_MAD_TO_SIGMA = 1.4826


def motion_events(pictures: Pictures, changes: Sequence[int] = ()) -> Array:
    """Times in seconds at which motion sets in, ascending.

    Args:
        changes: frames that start a scene; they never count as events.
    """
    growth = np.diff(pictures.change, prepend=0.0)
    growth[:2] = 0
    for change in changes:
        growth[change : change + 2] = 0
    if len(growth) < 3:
        return np.empty(0)
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(growth)))
    least = max(_LEAST_SPREADS * spread, _LEAST_GROWTH)
    step_s = float(np.median(np.diff(pictures.times_s)))
    peaks = local_maxima(growth, max(1, round(_APART_S / step_s)), least)
    return np.asarray(pictures.times_s[peaks])
