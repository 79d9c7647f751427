"""Footage as the picture of a scene: all of it, the part outside a mask, or what it looks like at a noise level.

Shapes: f frames or latent frames, c channels, h height, w width.
"""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from itertools import count
from math import ceil, floor, prod

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.base import ConditioningInput
from longtake.pipeline.conditioning.files import film_length_s, is_film, read_or_refuse
from longtake.pipeline.durations import seconds_at
from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import ConditioningFile
from longtake.pipeline.media.picture import to_uint8
from longtake.pipeline.scene_spec import Box, Scene
from longtake.pipeline.values import GivenLatents

_WHITE = 128


class Footage(ConditioningInput):
    """The picture of a scene. Without a mask and a strength it is shown as it is, and only the sound is rendered."""

    kind = "footage"
    gives_picture = True

    @override
    def check(self) -> list[str]:
        plan, scene = self.plan, self._scene
        if scene.is_shown_as_given and not prod(plan.latent_shapes["audio"]):
            raise SpecError(
                f"{self.file.key} is {self.file.url!r}; {self.model.name} makes no sound, so nothing is left to render;"
                f" add a mask or a strength, or use a model with sound"
            )
        has_s, needs_s = read_or_refuse(self.file, film_length_s), plan.clock.seconds(len(self._frames))
        if has_s < needs_s - plan.clock.seconds(1) / 2:
            raise SpecError(
                f"{self.file.key} is {self.file.url!r}, which lasts {float(has_s):g} s; the scene lasts"
                f" {float(needs_s):g} s, shorten it or use longer footage"
            )
        if has_s <= needs_s + plan.clock.seconds(1) / 2:
            return []
        return [f"{self.file.key} lasts {float(has_s):g} s, the scene {float(needs_s):g} s; the rest of it is left out"]

    @override
    @torch.inference_mode()
    def latents(self, chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        if chunk.scene != self.file.scene:
            return {}
        scene, places = self._scene, tuple(range(len(chunk.latents)))
        values = self._encode(chunk)
        if scene.is_shown_as_given:
            return {"video": GivenLatents(places, values)}
        level = 1.0 if scene.strength is None else scene.strength
        return {"video": GivenLatents(places, values, self._held(chunk, values), level)}

    @override
    def picture(self, frames: range, rendered: Tensor) -> Tensor:
        first, stop = max(frames.start, self._frames.start), min(frames.stop, self._frames.stop)
        if first >= stop or (self._mask is None and not self._scene.is_shown_as_given):
            return rendered
        own = slice(first - frames.start, stop - frames.start)
        inside = range(first - self._frames.start, stop - self._frames.start)
        footage, shown = self._source.read(inside), rendered.clone()
        if self._mask is None:
            shown[own] = footage
        else:
            alpha = _feathered(self._mask.read(inside), self._stride).movedim(1, -1)
            mixed = alpha * rendered[own].float() + (1 - alpha) * footage.float()
            shown[own] = mixed.round().to(torch.uint8)
        return shown

    def _encode(self, chunk: ChunkSpan) -> Tensor:
        """Latents [f c h w] of a chunk's footage, encoded together with as many latents before it as a decoder needs.

        They depend on the chunk alone, so every process makes the same ones.
        """
        clock, opening = self.plan.clock, self.plan.span(chunk.section)
        scene = self.plan.span(chunk.scene_start)
        first = max(scene.latents.start, chunk.latents.start - self.model.video_codec.left_context)
        in_section = range(first - opening.latents.start, chunk.latents.stop - opening.latents.start)
        # A codec whose first latent is shorter takes the last frames of that latent for it.
        start = clock.frames(in_section.start + 1) - clock.frames(1)
        frames = range(opening.frames.start + start, opening.frames.start + clock.frames(in_section.stop))
        footage = self._source.read(range(frames.start - self._frames.start, frames.stop - self._frames.start))
        pixels = footage.movedim(-1, 1).float() / 127.5 - 1
        return self.codecs.encode_frames(pixels, len(in_section))[-len(chunk.latents) :]

    def _held(self, chunk: ChunkSpan, values: Tensor) -> Tensor:
        """Which latents stay as they are: 1 or 0 [f 1 h w]; a latent that holds a pixel to be rendered is rendered."""
        if self._mask is None:
            return values.new_zeros(len(values), 1, *values.shape[2:])
        stops = self.plan.clock.latent_stops(chunk)
        groups = zip(self.plan.clock.latent_starts(chunk), stops, strict=True)
        rendered = [
            self._mask.read(range(start - self._frames.start, stop - self._frames.start)).amax(0)
            for start, stop in groups
        ]
        shrunk = reduce(torch.stack(rendered), "f c (h p) (w q) -> f c h w", "max", p=self._stride, q=self._stride)
        return (1 - shrunk).to(values)

    @property
    def _stride(self) -> int:
        return self.plan.storyboard.video.height // self.plan.latent_shapes["video"][1]

    @property
    def _scene(self) -> Scene:
        assert self.file.scene is not None, "footage belongs to a scene"
        return self.plan.storyboard.scenes[self.file.scene]

    @cached_property
    def _frames(self) -> range:
        """The frames of the film that the scene holds."""
        assert self.file.scene is not None, "footage belongs to a scene"
        return self.plan.scenes[self.file.scene].frames

    @cached_property
    def _source(self) -> "InOrder":
        return InOrder(lambda: (to_uint8(picture)[0] for picture in self.pictures(self.file)))

    @cached_property
    def _mask(self) -> "InOrder | None":
        """The part that is rendered: 1 [1 h w] where it is, else 0, for each frame of the scene."""
        scene, video = self._scene, self.plan.storyboard.video
        if scene.mask is None:
            return None
        size, flip = (video.width, video.height), scene.keep == "inside"
        if scene.boxes is not None:
            boxes = {seconds_at(at, video.fps) * video.fps: box for at, box in scene.boxes}
            return InOrder(lambda: ((1 - one if flip else one) for one in _drawn(boxes, *size)))
        assert isinstance(scene.mask, str), "a mask is a file or boxes"
        file = ConditioningFile("mask", f"scenes[{self.file.scene}].mask", scene.mask, self.file.scene)
        return InOrder(lambda: ((1 - one if flip else one) for one in _white(self.pictures(file))))


class Mask(ConditioningInput):
    """The mask of a scene's footage, as a file. `Footage` applies it."""

    kind = "mask"

    @override
    def check(self) -> list[str]:
        next(self.pictures(self.file))
        if not read_or_refuse(self.file, is_film):
            return []
        has_s = read_or_refuse(self.file, film_length_s)
        assert self.file.scene is not None, "a mask belongs to a scene"
        needs_s = self.plan.clock.seconds(len(self.plan.scenes[self.file.scene].frames))
        if has_s < needs_s - self.plan.clock.seconds(1) / 2:
            raise SpecError(
                f"{self.file.key} is {self.file.url!r}, which lasts {float(has_s):g} s; the scene lasts"
                f" {float(needs_s):g} s, use a mask as long as the scene, or a still"
            )
        return []


class InOrder:
    """Values that are made one after the other, read by number; reading again from an earlier one starts over.

    Args:
        make: an iterator over the values; the last one is repeated.
    """

    def __init__(self, make: Callable[[], Iterator[Tensor]]) -> None:
        self._make = make
        self._restart()

    def read(self, numbers: range) -> Tensor:
        """The values with these numbers, stacked."""
        if numbers.start < self._first:
            self._restart()
        while self._first + len(self._kept) < numbers.stop:
            value = next(self._values, None)
            self._kept.append(self._kept[-1] if value is None else value)
            if self._first + len(self._kept) <= numbers.start:
                self._drop(len(self._kept) - 1)
        self._drop(min(numbers.start - self._first, len(self._kept) - 1))
        return torch.stack(self._kept[numbers.start - self._first : numbers.stop - self._first])

    def _restart(self) -> None:
        self._values, self._first, self._kept = self._make(), 0, list[Tensor]()

    def _drop(self, count: int) -> None:
        self._first, self._kept = self._first + count, self._kept[count:]


def _white(pictures: Iterator[Tensor]) -> Iterator[Tensor]:
    """1 [1 h w] where a picture [1 3 h w] is white, else 0."""
    for picture in pictures:
        yield (to_uint8(picture)[0].float().mean(-1) >= _WHITE).float().unsqueeze(0)


def _drawn(boxes: Mapping[Fraction, Box], width: int, height: int) -> Iterator[Tensor]:
    """1 [1 h w] inside a box, else 0, frame by frame; between two moments, in frames, its edges move evenly."""
    moments = sorted(boxes)
    for frame in count():
        later = next((moment for moment in moments if moment > frame), moments[-1])
        earlier = max((moment for moment in moments if moment <= frame), default=later)
        share = float((frame - earlier) / (later - earlier)) if later > earlier else 0.0
        pairs = zip(boxes[earlier], boxes[later], strict=True)
        left, top, right, bottom = (one + share * (other - one) for one, other in pairs)
        drawn = torch.zeros(1, height, width)
        drawn[:, floor(top * height) : ceil(bottom * height), floor(left * width) : ceil(right * width)] = 1
        yield drawn
        if frame >= moments[-1]:
            return


def _feathered(inside: Tensor, stride: int) -> Tensor:
    """How much of what was rendered is shown [f 1 h w]: nothing outside of the mask, and more and more from its edge
    inwards, over half the stride of a latent."""
    around = functional.avg_pool2d(inside, stride + 1, 1, stride // 2, count_include_pad=False)
    return inside * (2 * around - 1).clamp(0, 1)
