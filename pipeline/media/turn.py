"""The turn by which players show a picture upright: the display matrix of a film, the EXIF orientation of a still.

Shapes: h height, w width, of a picture in RGB.
"""

from dataclasses import dataclass
from fractions import Fraction
from struct import unpack_from

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from longtake.pipeline.media.ffmpeg import side_data


@dataclass(frozen=True)
class Turn:
    """A turn by quarters, and mirroring.

    Args:
        is_quarter: whether rows become columns.
        flips: whether the picture is then mirrored from top to bottom, and from left to right.
    """

    is_quarter: bool = False
    flips: tuple[bool, bool] = (False, False)

    @staticmethod
    def of(frame: VideoFrame) -> "Turn":
        """The turn that a decoded picture asks for; other angles count as the nearest quarter."""
        matrix = side_data(frame, SideDataType.DISPLAYMATRIX)
        if matrix is None:
            return Turn()
        right_x, right_y, _, down_x, down_y = unpack_from("=5i", matrix)
        if abs(right_x) >= abs(right_y):
            return Turn(False, (down_y < 0, right_x < 0))
        return Turn(True, (right_y < 0, down_x < 0))

    def upright(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture [h w 3] as players show it."""
        turned = rgb.swapaxes(0, 1) if self.is_quarter else rgb
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return np.ascontiguousarray(turned[rows, columns])

    def before(self, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Height and width that a picture has before the turn, if `shape` is what it has afterwards."""
        return shape[::-1] if shape is not None and self.is_quarter else shape

    def aspect(self, pixel_aspect: Fraction) -> Fraction:
        """The width of a pixel by its height, after the turn."""
        return 1 / pixel_aspect if self.is_quarter else pixel_aspect
