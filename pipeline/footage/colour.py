"""Pictures between the samples of a video codec and RGB: in float, by matrix, range and depth, chroma where it sits.

What swscale would do, with three differences: nothing is rounded to 8 bits on the way, chroma that a codec keeps at
the left of its pixels stays there when the picture grows, and every matrix of ITU-T H.273 that is linear is known.

Shapes: h height, w width, and in chroma planes as many as the layout leaves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.values import Colour

Plane = NDArray[np.float32]
Codes = NDArray[np.uint8] | NDArray[np.uint16]
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_WHOLE = np.float32(1.5 * 2**23)
_STEP, _STRIP_SAMPLES = 4, 1 << 17
_UNSPECIFIED, _IDENTITY = 2, 0
_FULL = 2
_HD_HEIGHT = 720
_MOST_BITS = 16
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
        alpha: whether there is a plane of transparency, which only `alpha_of` reads.
    """

    chroma: str
    depth: int
    full_range: bool = False
    alpha: bool = False

    @property
    def planar(self) -> str:
        """FFmpeg's name of the format that holds these samples in planes of their own, without alpha."""
        return self._named({"rgb": "gbrp", "gray": "gray"}.get(self.chroma, f"yuv{self.chroma}p"))

    @property
    def with_alpha(self) -> str:
        """FFmpeg's name of that format with a plane of transparency; of grey samples, one with empty chroma."""
        chroma = "444" if self.chroma == "gray" else self.chroma
        return self._named("gbrap" if self.chroma == "rgb" else f"yuva{chroma}p")

    def _named(self, stem: str) -> str:
        return stem if self.depth == 8 else f"{stem}{self.depth}le"


def layout_of(pix_fmt: str) -> Layout:
    """The layout of one of FFmpeg's pixel formats; MediaError if its samples are no numbers that pictures have."""
    try:
        form = VideoFormat(pix_fmt)
    except ValueError as error:
        raise MediaError(f"the pixel format {pix_fmt!r} is unknown to this FFmpeg") from error
    bits = max((component.bits for component in form.components), default=0)
    depth = min(bits, _MOST_BITS)  # of floating point too
    alpha = any(component.is_alpha for component in form.components)
    if form.is_bit_stream or form.has_palette or bits < 8:
        return Layout("rgb", 8)
    if form.is_rgb or pix_fmt.startswith("xyz"):
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
    rgb = np.empty((3, frame.height, frame.width), dtype=np.float32)
    full = is_full(colour, layout)
    luma_of, chroma_of = _decoder(_black_white(layout, full)), _decoder(_zero_one(layout, full))
    shares = _SHARES[1 if layout.chroma in {"rgb", "gray"} else matrix_of(colour, frame.height)]
    for rows in _strips(frame.height, frame.width):
        out = rgb[:, rows.start : rows.stop]
        if layout.chroma == "rgb":
            for place, plane in zip((1, 2, 0), planes, strict=True):
                np.divide(plane[rows.start : rows.stop], np.float32((1 << layout.depth) - 1), out=out[place])
            continue
        luma = luma_of(planes[0][rows.start : rows.stop])
        if layout.chroma == "gray":
            out[:] = np.clip(luma, _ZERO, _ONE)
        else:
            blueness, redness = (_grown(plane, chroma_of, layout, rows, frame.width) for plane in planes[1:])
            _rgb_into(out, luma, blueness, redness, *shares)
    return rgb


def alpha_of(frame: VideoFrame) -> Plane:
    """The transparency of a decoded picture whose format has one: float32 [1 h w], 1 where it is opaque."""
    layout = layout_of(frame.format.name)
    if frame.format.name != layout.with_alpha:
        frame = frame.reformat(format=layout.with_alpha, threads=1)
    codes = _codes(frame, len(frame.planes) - 1, layout)
    return (codes.astype(np.float32) / np.float32((1 << layout.depth) - 1))[np.newaxis]


def from_rgb(rgb: Plane, colour: Colour, layout: Layout, matrix: int) -> VideoFrame:
    """A picture to encode from float32 [3 h w], 0..1; its rows and columns whole multiples of the chroma's steps.

    A layout with alpha takes [4 h w].
    """
    height, width = rgb.shape[1:]
    frame = VideoFrame(width, height, layout.with_alpha if layout.alpha else layout.planar)
    full, planes = is_full(colour, layout), [_buffer(frame, number, layout) for number in range(_num_planes(layout))]
    for rows in _strips(height, width):
        part = rgb[:3, rows.start : rows.stop]
        if layout.chroma == "rgb":
            top = np.float32((1 << layout.depth) - 1)
            codes = [part[place] * top for place in (1, 2, 0)]
        else:
            luma, *chroma = _ycc_of(part, *_SHARES[matrix])
            codes = [_to_codes(luma, _black_white(layout, full))]
            if layout.chroma != "gray":
                codes += [_to_codes(_shrink(plane, layout), _zero_one(layout, full)) for plane in chroma]
        for plane, values in zip(planes, codes, strict=True):
            _put(plane[rows.start * len(plane) // height :], values, layout)
    if layout.alpha:
        planes.append(_buffer(frame, 3, layout))
        _put(planes[3], rgb[3] * np.float32((1 << layout.depth) - 1), layout)
    for number, plane in enumerate(planes):
        frame.planes[number].update(plane.tobytes())
    return frame


def _strips(height: int, width: int) -> Iterator[range]:
    """Rows that are converted together: few enough for a processor's cache, and whole steps of any chroma."""
    rows = max(_STEP, _STRIP_SAMPLES // width // _STEP * _STEP)
    for start in range(0, height, rows):
        yield range(start, min(start + rows, height))


def _num_planes(layout: Layout) -> int:
    return 1 if layout.chroma == "gray" else 3


def _samples(frame: VideoFrame, layout: Layout, number: int) -> Codes:
    """One plane's codes, as they lie in the frame."""
    if frame.format.name not in {layout.planar, layout.with_alpha} and not layout.full_range:
        frame = frame.reformat(format=layout.planar, threads=1)  # the same samples, laid out otherwise
    return _codes(frame, number, layout)


def _codes(frame: VideoFrame, number: int, layout: Layout) -> Codes:
    plane = frame.planes[number]
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    return rows.view(_kind(layout))[:, : plane.width]


def _kind(layout: Layout) -> np.dtype[Any]:
    return np.dtype(np.uint8 if layout.depth == 8 else "<u2")


def _buffer(frame: VideoFrame, number: int, layout: Layout) -> Codes:
    """Room for one plane's codes, with the padding of its rows."""
    plane, kind = frame.planes[number], _kind(layout)
    return np.zeros((plane.height, plane.line_size // kind.itemsize), dtype=kind)


def _put(rows: Codes, codes: Plane, layout: Layout) -> None:
    """Round to whole codes, half to even, in place: a float's last bits hold the number once 1.5 * 2**23 is added."""
    np.clip(codes, _ZERO, np.float32((1 << layout.depth) - 1), out=codes)
    np.add(codes, _WHOLE, out=codes)
    whole = codes.view(_kind(layout))[:, :: codes.itemsize // rows.itemsize]
    rows[: codes.shape[0], : codes.shape[1]] = whole


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


def _decoder(ends: tuple[float, float]) -> Callable[[Codes], Plane]:
    """From codes to values that are 0 at the first of `ends` and 1 at the second."""
    low, scale = np.float32(ends[0]), np.float32(1 / (ends[1] - ends[0]))

    def decode(codes: Codes) -> Plane:
        values = codes.astype(np.float32)
        np.subtract(values, low, out=values)
        return np.multiply(values, scale, out=values)

    return decode


def _to_codes(values: Plane, ends: tuple[float, float]) -> Plane:
    low, high = ends
    codes: Plane = values * np.float32(high - low)
    codes += np.float32(low)
    return codes


def _rgb_into(rgb: Plane, luma: Plane, cb: Plane, cr: Plane, red_share: float, blue_share: float) -> None:
    red, green, blue = rgb
    mixed = np.multiply(cr, np.float32(2 * (1 - red_share)))
    np.add(luma, mixed, out=red)
    np.multiply(cb, np.float32(2 * (1 - blue_share)), out=mixed)
    np.add(luma, mixed, out=blue)
    np.multiply(red, np.float32(red_share), out=mixed)
    np.subtract(luma, mixed, out=luma)
    np.multiply(blue, np.float32(blue_share), out=mixed)
    np.subtract(luma, mixed, out=luma)
    np.multiply(luma, np.float32(1 / (1 - red_share - blue_share)), out=green)
    np.clip(rgb, _ZERO, _ONE, out=rgb)


def _ycc_of(rgb: Plane, red_share: float, blue_share: float) -> tuple[Plane, Plane, Plane]:
    red, green, blue = rgb
    luma = np.multiply(red, np.float32(red_share))
    mixed = np.multiply(green, np.float32(1 - red_share - blue_share))
    np.add(luma, mixed, out=luma)
    np.multiply(blue, np.float32(blue_share), out=mixed)
    np.add(luma, mixed, out=luma)
    cr = np.subtract(red, luma)
    np.multiply(cr, np.float32(1 / (2 * (1 - red_share))), out=cr)
    np.subtract(blue, luma, out=mixed)
    np.multiply(mixed, np.float32(1 / (2 * (1 - blue_share))), out=mixed)
    return luma, mixed, cr


def _grown(plane: Codes, decode: Callable[[Codes], Plane], layout: Layout, rows: range, width: int) -> Plane:
    """Chroma at every pixel of `rows`, linearly between the places where it was taken: at the left, between rows."""
    wide, high = _SUBSAMPLING[layout.chroma]
    first, stop = rows.start // high, -(-rows.stop // high)
    near = np.arange(first - 1, stop + 1).clip(0, len(plane) - 1)
    values = decode(plane[near])
    tall = _between(values, high, (high - 1) / 2)[: len(rows)]
    if wide == 1:
        return tall
    edged = np.empty((tall.shape[0], tall.shape[1] + 2), dtype=np.float32)
    edged[:, 1:-1], edged[:, 0], edged[:, -1] = tall, tall[:, 0], tall[:, -1]
    return _between(edged.T, wide, _offset(layout, wide), by_columns=True).T[:, :width]


def _offset(layout: Layout, wide: int) -> float:
    return (wide - 1) / 2 if layout.full_range else 0.0  # JPEG's chroma sits in the middle


def _between(edged: Plane, steps: int, offset: float, *, by_columns: bool = False) -> Plane:
    """Rows `steps` times as many, where row n lies at `steps` n + `offset`; `edged` has one row more at either end.

    Args:
        by_columns: keep the rows of the result as columns in memory.
    """
    count = len(edged) - 2
    if steps == 1:
        return edged[1:-1]
    shape = (count * steps, edged.shape[1])
    grown = np.empty(shape[::-1], dtype=np.float32).T if by_columns else np.empty(shape, dtype=np.float32)
    for row in range(steps):
        place = (row - offset) / steps  # of a row of `edged` without its edges, between -1 and 1
        before = 1 if place >= 0 else 0
        share = np.float32(place if place >= 0 else 1 + place)
        one, other = edged[before : before + count], edged[before + 1 : before + 1 + count]
        if share == 0:
            grown[row::steps] = one
        elif share == _HALF:  # the same bits as the sum of the halves, since halving rounds nothing
            np.multiply(one + other, _HALF, out=grown[row::steps])
        else:
            np.add(one * (1 - share), other * share, out=grown[row::steps])
    return grown


def _shrink(plane: Plane, layout: Layout) -> Plane:
    """Chroma where it is kept: the mean of the rows, and around the left column of each pair 1-2-1."""
    wide, high = _SUBSAMPLING[layout.chroma]
    if high > 1:
        plane = _sum([plane[row::high] for row in range(high)])
        plane *= np.float32(1 / high)
    if wide == 1:
        return plane
    taken = [np.ascontiguousarray(plane[:, step::wide]) for step in range(wide)]
    total = taken[0] * np.float32(wide)
    before = np.empty_like(total)
    parts = []
    for step in range(1, wide):  # the columns before, which the first ones do not have, and those after
        before[:, 1:], before[:, 0] = taken[step][:, :-1], plane[:, 0]
        parts.append(before * np.float32(step) if step > 1 else before.copy())
    after = [taken[step] * np.float32(wide - step) if wide - step > 1 else taken[step] for step in range(1, wide)]
    total = _sum([*parts, total, *after])
    total *= np.float32(1 / (wide * wide))
    return total


def _sum(parts: list[Plane]) -> Plane:
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total
