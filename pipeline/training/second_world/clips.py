"""The second world as a source of clips for training.

Shapes: b clips, f frames, h w pixels, n samples of each of two channels.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np
import torch
from einops import reduce, repeat
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.training.second_world.captions import draw_caption
from longtake.pipeline.training.second_world.moves import FPS, Moves, continued, draw_moves
from longtake.pipeline.training.second_world.pictures import Pictures, Pixels, draw_pictures
from longtake.pipeline.training.second_world.sounds import SAMPLE_RATE, hum, strike_tones
from longtake.pipeline.training.source import Clips, ClipSource, Key

NEAR_BLOCK = 8
"""Side of the blocks of pixels that count as near a shape if it touches them."""

_TRIES = 50


class SecondWorld(ClipSource):
    """Clips of the second world under the captions of its training set, in stereo."""

    fps = Fraction(FPS)

    @override
    def draw(self, key: Key, numbers: Sequence[int], seconds: Fraction, switch: float = 0.0) -> Clips:
        films = [_Film.draw(key, number, seconds, switch) for number in numbers]
        pictures = [film.pictures() for film in films]
        covers = torch.from_numpy(np.stack([picture.covers.max(axis=0) for picture in pictures]))
        touched = reduce(covers, "b f (h p) (w q) -> b f h w", "max", p=NEAR_BLOCK, q=NEAR_BLOCK) > 0
        return Clips(
            frames=torch.from_numpy(np.stack([picture.frames for picture in pictures])),
            sound=_stacked([film.sound() for film in films]),
            near=repeat(touched.float(), "b f h w -> b f (h p) (w q)", p=NEAR_BLOCK, q=NEAR_BLOCK),
            prompts=tuple(str(film.parts[-1].caption) for film in films),
            since_s=tuple(film.starts_s[-1] for film in films),
        )

    @override
    def sound(self, key: Key, numbers: Sequence[int], seconds: Fraction) -> Tensor:
        return _stacked([_Film.draw(key, number, seconds).sound() for number in numbers])


class _Film:
    """A clip of one prompt or of two, each with the moves from its start on."""

    def __init__(self, parts: Sequence[Moves], starts_s: Sequence[float]) -> None:
        self.parts, self.starts_s = parts, starts_s

    @classmethod
    def draw(cls, key: Key, number: int, seconds: Fraction, switch: float = 0.0) -> "_Film":
        rng = np.random.default_rng((*key, number))
        first = draw_moves(rng, draw_caption(rng), float(seconds))
        if seconds > 1 and rng.random() < switch:
            start_s = float(rng.integers(1, ceil(seconds)))
            for _ in range(_TRIES):
                caption = draw_caption(rng)
                caption = replace(caption, camera=first.caption.camera, light=first.caption.light)
                if (second := continued(rng, first, caption, start_s)) is not None:
                    return cls((_until(first, start_s), second), (0.0, start_s))
        return cls((first,), (0.0,))

    def pictures(self) -> Pictures:
        parts = [draw_pictures(part) for part in self.parts]
        return Pictures(*(np.concatenate([getattr(part, name) for part in parts], axis=axis) for name, axis in _AXES))

    def sound(self) -> Pixels:
        """Both channels [2 n]; tones of the first prompt fade under the second."""
        length = round((self.starts_s[-1] + self.parts[-1].stop_s) * SAMPLE_RATE)
        sound = np.zeros((2, length), np.float32)
        for part, start_s in zip(self.parts, self.starts_s, strict=True):
            first, own = round(start_s * SAMPLE_RATE), round(part.stop_s * SAMPLE_RATE)
            sound[:, first:] += strike_tones(part, length - first)
            sound[:, first : first + own] += hum(part, own)
        return sound


_AXES = (("frames", 0), ("covers", 1))


def _until(moves: Moves, stop_s: float) -> Moves:
    return replace(moves, stop_s=stop_s, events=tuple(event for event in moves.events if event.time_s < stop_s))


def _stacked(sounds: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(sounds))
