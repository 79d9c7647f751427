"""Pictures between the samples of a video codec and RGB: in float, by matrix, range and depth, chroma where it sits.

What swscale would do, with three differences: nothing is rounded to 8 bits on the way, chroma that a codec keeps at
the left of its pixels stays there when the picture grows, and every matrix of ITU-T H.273 that is linear is known.

Shapes: h height, w width, and in chroma planes as many as the layout leaves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.values import Colour

Plane = NDArray[np.float32]
_UNSPECIFIED, _IDENTITY = 2, 0
_FULL = 2
_HD_HEIGHT = 720
# Shares of red and blue in brightness, by matrix_coefficients of ITU-T H.273.
_SHARES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_SUBSAMPLING = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}


@dataclass(frozen=True)
class Layout:
    """How a picture's samples lie.

    Args:
        chroma: "420", "422", "444", "440", "411", "410", "gray" or "rgb".
        depth: bits of a sample.
        full_range: whether the format itself says so, as `yuvj420p` does.
        alpha: whether there is a fourth plane, which is not read.
    """

    chroma: str
    depth: int
    full_range: bool = False
    alpha: bool = False

    @property
    def planar(self) -> str:
        """FFmpeg's name of the format that holds these samples in planes of their own, without alpha."""
        stem = {"rgb": "gbrp", "gray": "gray"}.get(self.chroma, f"yuv{self.chroma}p")
        return stem if self.depth == 8 else f"{stem}{self.depth}le"


def layout_of(pix_fmt: str) -> Layout:
    """The layout of one of FFmpeg's pixel formats; MediaError if its samples are no numbers that pictures have."""
    try:
        form = VideoFormat(pix_fmt)
    except ValueError as error:
        raise MediaError(f"the pixel format {pix_fmt!r} is unknown to this FFmpeg") from error
    depth = max((component.bits for component in form.components), default=0)
    alpha = any(component.is_alpha for component in form.components)
    if form.is_bit_stream or form.has_palette or depth < 8:
        return Layout("rgb", 8)
    if form.is_rgb:
        return Layout("rgb", depth, alpha=alpha)
    if len(form.components) < 3:
        return Layout("gray", depth, alpha=alpha)
    wide, high = 64 // form.chroma_width(64), 64 // form.chroma_height(64)
    chroma = next((name for name, steps in _SUBSAMPLING.items() if steps == (wide, high)), None)
    if chroma is None or "f" in pix_fmt.removeprefix("yuv"):
        raise MediaError(f"the pixel format {pix_fmt!r} cannot be read; convert the footage to yuv420p or yuv420p10le")
    return Layout(chroma, depth, pix_fmt.startswith("yuvj"), alpha)


def matrix_of(colour: Colour, height: int) -> int:
    """The matrix by which footage is read: as tagged, else BT.709 for high definition and BT.601 below."""
    if colour.matrix == _UNSPECIFIED:
        return 1 if height >= _HD_HEIGHT else 6
    return colour.matrix


def check_matrix(colour: Colour, layout: Layout) -> None:
    """MediaError for a matrix that is not linear, or not known."""
    if layout.chroma in {"rgb", "gray"} or colour.matrix == _UNSPECIFIED or colour.matrix in _SHARES:
        return
    raise MediaError(
        f"the footage is tagged with colour matrix {colour.matrix}; known are {sorted(_SHARES)} and 2 (untagged):"
        " convert it to one of those"
    )


def is_full(colour: Colour, layout: Layout) -> bool:
    """Whether black is 0 and white the largest number."""
    return layout.chroma == "rgb" or layout.full_range or colour.range == _FULL


def to_rgb(frame: VideoFrame, colour: Colour) -> Plane:
    """A decoded picture as float32 [3 h w], 0..1, gamma-coded as it was."""
    layout = layout_of(frame.format.name)
    planes = [_samples(frame, layout, number) for number in range(_num_planes(layout))]
    if layout.chroma == "rgb":
        green, blue, red = planes
        return np.stack([red, green, blue]) / np.float32((1 << layout.depth) - 1)
    luma = _from_codes(planes[0], _black_white(layout, is_full(colour, layout)))
    if layout.chroma == "gray":
        return np.repeat(luma[None].clip(0, 1), 3, axis=0)
    zero_one = _zero_one(layout, is_full(colour, layout))
    blueness, redness = (_grow(_from_codes(plane, zero_one), layout, luma.shape) for plane in planes[1:])
    return _rgb_of(luma, blueness, redness, *_SHARES[matrix_of(colour, frame.height)])


def from_rgb(rgb: Plane, colour: Colour, layout: Layout, matrix: int) -> VideoFrame:
    """A picture to encode from float32 [3 h w], 0..1; its rows and columns whole multiples of the chroma's steps."""
    height, width = rgb.shape[1:]
    frame = VideoFrame(width, height, layout.planar)
    if layout.chroma == "rgb":
        top = np.float32((1 << layout.depth) - 1)
        codes = [rgb[1] * top, rgb[2] * top, rgb[0] * top]
    else:
        full = is_full(colour, layout)
        luma, *chroma = _ycc_of(rgb, *_SHARES[matrix])
        zero_one = _zero_one(layout, full)
        codes = [_to_codes(luma, _black_white(layout, full))]
        if layout.chroma != "gray":
            codes += [_to_codes(_shrink(plane, layout), zero_one) for plane in chroma]
    for number, plane in enumerate(codes):
        _put(frame, number, plane, layout)
    return frame


def _num_planes(layout: Layout) -> int:
    return 1 if layout.chroma == "gray" else 3


def _samples(frame: VideoFrame, layout: Layout, number: int) -> Plane:
    """One plane's codes."""
    if frame.format.name != layout.planar and not (layout.full_range or (layout.alpha and frame.format.is_planar)):
        frame = frame.reformat(format=layout.planar, threads=1)  # the same samples, laid out otherwise
    plane = frame.planes[number]
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    codes: Plane = rows.view(_kind(layout))[:, : plane.width].astype(np.float32)
    return codes


def _kind(layout: Layout) -> np.dtype[Any]:
    return np.dtype(np.uint8 if layout.depth == 8 else "<u2")


def _put(frame: VideoFrame, number: int, codes: Plane, layout: Layout) -> None:
    plane = frame.planes[number]
    kind = _kind(layout)
    rows = np.zeros((plane.height, plane.line_size // kind.itemsize), dtype=kind)
    rows[:, : plane.width] = np.rint(codes).clip(0, (1 << layout.depth) - 1)
    plane.update(rows.tobytes())


def _black_white(layout: Layout, full: bool) -> tuple[float, float]:
    """The codes of black and of white."""
    if full:
        return 0.0, float((1 << layout.depth) - 1)
    step = 1 << (layout.depth - 8)
    return 16.0 * step, 235.0 * step


def _zero_one(layout: Layout, full: bool) -> tuple[float, float]:
    """The codes of no colour and of as much as there is, twice over: chroma runs from -0.5 to 0.5."""
    middle = float(1 << (layout.depth - 1))
    return middle, middle + ((1 << layout.depth) - 1 if full else 224 << (layout.depth - 8))


def _from_codes(codes: Plane, ends: tuple[float, float]) -> Plane:
    low, high = ends
    return (codes - np.float32(low)) * np.float32(1 / (high - low))


def _to_codes(values: Plane, ends: tuple[float, float]) -> Plane:
    low, high = ends
    return values * np.float32(high - low) + np.float32(low)


def _rgb_of(luma: Plane, cb: Plane, cr: Plane, red_share: float, blue_share: float) -> Plane:
    rgb = np.empty((3, *luma.shape), dtype=np.float32)
    rgb[0] = luma + np.float32(2 * (1 - red_share)) * cr
    rgb[2] = luma + np.float32(2 * (1 - blue_share)) * cb
    green_share = 1 - red_share - blue_share
    rgb[1] = (luma - np.float32(red_share) * rgb[0] - np.float32(blue_share) * rgb[2]) * np.float32(1 / green_share)
    return rgb.clip(0, 1, out=rgb)


def _ycc_of(rgb: Plane, red_share: float, blue_share: float) -> tuple[Plane, Plane, Plane]:
    red, green, blue = rgb
    luma = np.float32(red_share) * red + np.float32(1 - red_share - blue_share) * green + np.float32(blue_share) * blue
    cb = (blue - luma) * np.float32(1 / (2 * (1 - blue_share)))
    return luma, cb, (red - luma) * np.float32(1 / (2 * (1 - red_share)))


def _grow(plane: Plane, layout: Layout, shape: tuple[int, ...]) -> Plane:
    """Chroma at every pixel, linearly between the places where it was taken: at the left, between rows."""
    wide, high = _SUBSAMPLING[layout.chroma]
    plane = _stretched(plane, high, (high - 1) / 2)
    return _stretched(plane.T, wide, _offset(layout, wide)).T[: shape[0], : shape[1]]


def _offset(layout: Layout, wide: int) -> float:
    return (wide - 1) / 2 if layout.full_range else 0.0  # JPEG's chroma sits in the middle


def _stretched(plane: Plane, steps: int, offset: float) -> Plane:
    """Rows `steps` times as many, where row n of `plane` lies at `steps` n + `offset`."""
    if steps == 1:
        return plane
    grown = np.empty((len(plane) * steps, plane.shape[1]), dtype=np.float32)
    edges = np.concatenate([plane[:1], plane, plane[-1:]])
    for row in range(steps):
        place = (row - offset) / steps  # of a row of `plane`, between -1 and 1
        before = 1 if place >= 0 else 0
        share = np.float32(place if place >= 0 else 1 + place)
        grown[row::steps] = (
            edges[before : before + len(plane)] * (1 - share) + edges[before + 1 :][: len(plane)] * share
        )
    return grown


def _shrink(plane: Plane, layout: Layout) -> Plane:
    """Chroma where it is kept: the mean of the rows, and around the left column of each pair 1-2-1."""
    wide, high = _SUBSAMPLING[layout.chroma]
    if high > 1:
        plane = _sum([plane[row::high] for row in range(high)]) * np.float32(1 / high)
    if wide == 1:
        return plane
    weights = [wide - abs(step) for step in range(1 - wide, wide)]
    padded = np.pad(plane, ((0, 0), (wide - 1, wide - 1)), mode="edge")
    columns = plane.shape[1]
    parts = [padded[:, step : step + columns : wide] * np.float32(w) for step, w in enumerate(weights)]
    return _sum(parts) * np.float32(1 / (wide * wide))


def _sum(parts: list[Plane]) -> Plane:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
