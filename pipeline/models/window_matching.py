"""The upscaler's attention: every pixel fetches the pixels that it matches in earlier frames, window by window.

Before any training this attention is block matching. A query is the pixel's neighbourhood, a key is that of another
pixel, and their product falls with the square of their difference. Further channels, rotated by RoPE, encode a key's
age and distance. Each head prefers one age. It fetches features, a grey level and a position in the window. Only their
difference from the pixel's own values is passed on, the grey level through `subpixel_residual.py`. Without a past the
difference is zero.

Shapes: b clips, f frames, c channels, h w pixels, n heads, d head width, l tokens of a window in one chunk, k pixels of
a neighbourhood; inside a picture: i j windows down and across, y x pixels of a window.
"""

from dataclasses import dataclass
from math import ceil, pi
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.attention.context import QKV, AttentionContext, Site
from longtake.pipeline.attention.rope import Rope
from longtake.pipeline.models.subpixel_residual import INSIDE, Slopes, subpixel_residual

KIND, STREAM = "window", "video"
SITE = Site(0, KIND)  # every layer has its own store, since the layers have different windows

HEAD_DIM = 32
NEIGHBOURS = 5
"""Side of the neighbourhood by which pixels are compared."""

_HALF = HEAD_DIM // 2
_AGE = (0, _HALF)  # a head's first pair of channels is rotated by time, its last two by position, the others not at all
_PLACE = (_HALF - 2, _HALF - 1, HEAD_DIM - 2, HEAD_DIM - 1)
_LIKENESS = [channel for channel in range(HEAD_DIM) if channel not in (*_AGE, *_PLACE)]
_FAINT = 0.05  # contrast below this counts less and less, so that noise does not match

_AGE_LOGIT, _PLACE_LOGIT, _LIKENESS_LOGIT = 8.0, 4.0, 250.0  # initial weights of the parts of a match
_DIFFERENCE_GAIN, _NEW_GAIN, _WEIGHT_GAIN = 10.0, 30.0, 0.3  # features and frames differ little along the motion


@dataclass(frozen=True)
class Matching:
    """The range of the matching.

    Args:
        width: channels of a pixel's features.
        num_heads: of attention; the first prefers the frame before, the second the one before that, and so on.
        side: of a window, in pixels.
        frames: how many earlier frames a pixel sees at most.
    """

    width: int
    num_heads: int
    side: int
    frames: int

    @property
    def new_channels(self) -> int:
        """Channels of the residuals."""
        return 2 * INSIDE**2

    @property
    def turn_of_age(self) -> float:
        """Radians per frame: all visible ages lie on one circle."""
        return 2 * pi / (self.frames + 1)

    def rope(self) -> Rope:
        """Rotations of a head: by frame, row and column."""
        still = (0.0,) * (_HALF - 3)
        near = pi / self.side
        return Rope.of_axes(((self.turn_of_age, *still), (near,), (near,)))


class WindowMatching(nn.Module):
    """Adds to the features of pixels what they match in the past of their window.

    Args:
        shifted: whether windows begin half a window outside the frame. Alternating layers then bridge their borders.
    """

    def __init__(self, matching: Matching, shifted: bool) -> None:
        super().__init__()
        self._side, self._num_heads = matching.side, matching.num_heads
        self._before = matching.side // 2 if shifted else 0
        width, inner = matching.width, matching.num_heads * HEAD_DIM
        self.gain, self.asked, self.told = (nn.Parameter(part) for part in _first_match(matching))
        self.carry = nn.Linear(width, inner - 3 * matching.num_heads)
        first = nn.Conv2d(inner - matching.num_heads, width, 3, padding=1)
        last = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Sequential(first, nn.LeakyReLU(0.2), last)
        with torch.no_grad():  # initially little is added, and nothing where there is no difference
            last.weight.mul_(0.1)
            for conv in (first, last):
                conv.bias.zero_()  # type: ignore[union-attr]

    def num_windows(self, height: int, width: int) -> int:
        """How many windows cover a frame of `height` x `width` pixels."""
        rows, columns = (self._before + side for side in (height, width))
        return ceil(rows / self._side) * ceil(columns / self._side)

    def forward(self, x: Tensor, seen: "Appearance", times: range, context: AttentionContext) -> tuple[Tensor, Tensor]:
        """Features shaped like `x` [(b f) c h w], and residuals [(b f) c h w].

        Args:
            seen: the appearance of the frames.
            times: numbers of the frames in their scene.
        """
        f, n = len(times), self._num_heads
        carried = rearrange(self.carry(rearrange(x, "(b f) c h w -> b f h w c", f=f)), "... (n d) -> ... n d", n=n)
        places = self._places(*x.shape[2:]).to(seen.slopes.grey).expand(*carried.shape[:-1], 2)
        grey = rearrange(seen.slopes.grey, "(b f) h w -> b f h w 1 1", f=f).expand(*carried.shape[:-1], 1)
        values = torch.cat((carried.to(grey), places, grey), dim=-1)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 is too coarse to tell pixels apart
            keys, queries = _match(seen.likeness, f)
            qkv = QKV(*(self._windows(part) for part in (queries * self.gain + self.asked, keys + self.told, values)))
            attended = context.attend(SITE, {STREAM: qkv}, {STREAM: self._positions(times)})[STREAM]
            fetched = rearrange(self._picture(attended, f, *x.shape[2:]), "b f h w n d -> (b f) n d h w")
            difference, weight = subpixel_residual(seen.slopes, fetched[:, :, -1])
        own = rearrange(values, "b f h w n d -> (b f) n d h w")
        out: Tensor = x + self.join((_DIFFERENCE_GAIN * (fetched - own)[:, :, :-1]).flatten(1, 2))
        return out, torch.cat((_NEW_GAIN * difference, _WEIGHT_GAIN * weight), dim=1)

    def _windows(self, tokens: Tensor) -> Tensor:
        """[b f h w n d] -> [(b i j) n (f y x) d], with zeros where windows reach beyond the frame."""
        before, side = self._before, self._side
        down, across = (-(before + size) % side for size in tokens.shape[2:4])
        padded = functional.pad(tokens, (0, 0, 0, 0, before, across, before, down))
        return rearrange(padded, "b f (i y) (j x) n d -> (b i j) n (f y x) d", y=side, x=side)

    def _picture(self, tokens: Tensor, f: int, height: int, width: int) -> Tensor:
        """The inverse: [(b i j) n (f y x) d] -> [b f h w n d], for `height` x `width` pixels."""
        before, side = self._before, self._side
        rows, columns = (ceil((before + size) / side) for size in (height, width))
        whole = rearrange(tokens, "(b i j) n (f y x) d -> b f (i y) (j x) n d", i=rows, j=columns, f=f, y=side, x=side)
        return whole[:, :, before : before + height, before : before + width]

    def _places(self, height: int, width: int) -> Tensor:
        """The position of each pixel in its window, in 0..1 [h w 1 2]."""
        down, across = ((torch.arange(size) + self._before) % self._side / self._side for size in (height, width))
        return torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).unsqueeze(2)

    def _positions(self, times: range) -> Tensor:
        """The positions of a window's tokens: frames, and pixels from its corner, float64 [l 3]."""
        pixels = torch.arange(self._side, dtype=torch.float64)
        frames = torch.arange(times.start, times.stop, dtype=torch.float64)
        return torch.cartesian_prod(frames, pixels, pixels)


class Appearance(NamedTuple):
    """The appearance of frames, in float32 or finer: grey levels, and those around each pixel [m k h w]."""

    slopes: Slopes
    likeness: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> "Appearance":
        """Of frames [m 3 h w]. The levels around a pixel have mean 0 and a norm below 1."""
        red, green, blue = frames.unbind(dim=1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        padded = functional.pad(grey.unsqueeze(1), [NEIGHBOURS // 2] * 4, mode="replicate")
        around = rearrange(functional.unfold(padded, NEIGHBOURS), "m k (h w) -> m k h w", h=grey.shape[1])
        around = around - around.mean(dim=1, keepdim=True)
        return cls(Slopes.of(grey), around / (around.norm(dim=1, keepdim=True) + _FAINT))


def _match(likeness: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """Keys and queries [b f h w 1 d] whose product, q k - k k / 2, falls with the square of their difference."""
    around = rearrange(likeness, "(b f) k h w -> b f h w 1 k", f=f)
    length = around.square().sum(dim=-1, keepdim=True)
    keys, queries = (likeness.new_zeros(*around.shape[:-1], HEAD_DIM) for _ in range(2))
    keys[..., _LIKENESS] = torch.cat((around, -length / 2), dim=-1)
    queries[..., _LIKENESS] = torch.cat((around, torch.ones_like(length)), dim=-1)
    return keys, queries


def _first_match(matching: Matching) -> tuple[Tensor, Tensor, Tensor]:
    """Initial values: gain of a query's neighbourhood, its other channels, and those of a key, each [n d]."""
    # On the CPU, also where only the shapes are asked for: arithmetic on the meta device imports the compiler, for 2 s.
    gain, asked, told = torch.zeros(3, matching.num_heads, HEAD_DIM, device="cpu")
    ages = matching.turn_of_age * torch.arange(1, matching.num_heads + 1, device="cpu")
    gain[:, _LIKENESS] = _LIKENESS_LOGIT
    asked[:, _AGE] = _AGE_LOGIT * torch.stack((ages.cos(), -ages.sin()), dim=1)
    asked[:, _PLACE[:2]] = _PLACE_LOGIT
    told[:, (_AGE[0], *_PLACE[:2])] = 1.0
    return gain * HEAD_DIM**0.5, asked * HEAD_DIM**0.5, told  # attention divides by the root
