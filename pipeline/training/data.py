"""Synthetic clips of the world of sounding shapes: endless, seeded, vectorised.

Shapes: b clips, f frames, h w pixels, n samples, e hits, k samples of one tone.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.training.source import Clips, ClipSource, Key
from longtake.pipeline.training.world import (
    ALL_COLOURS,
    BACKGROUNDS,
    EXTENTS,
    FPS,
    HARMONICS,
    PITCH_HZ,
    SAMPLE_RATE,
    SIZE,
    Caption,
    Moves,
    draw_caption,
    draw_moves,
    switched,
)

ATTACK_S, DECAY_S, TONE_S = 0.004, 0.16, 1.25
NEAR_PIXELS = 3
_PERIOD = SAMPLE_RATE // 20


class World(ClipSource):
    """Clips of sounding shapes under the captions of the training set.

    Args:
        colour: of all shapes, in their captions and pictures; by default that of each caption.
    """

    fps = Fraction(FPS)

    def __init__(self, colour: str | None = None) -> None:
        self._colour = colour

    @override
    def draw(self, key: Key, numbers: Sequence[int], seconds: Fraction, switch: float = 0.0) -> Clips:
        return render([self._moves(key, number, seconds, switch) for number in numbers], seconds)

    @override
    def sound(self, key: Key, numbers: Sequence[int], seconds: Fraction) -> Tensor:
        return strike_sound([self._moves(key, number, seconds) for number in numbers], round(seconds * SAMPLE_RATE))

    def _moves(self, key: Key, number: int, seconds: Fraction, switch: float = 0.0) -> Moves:
        rng = np.random.default_rng((*key, number))
        moves = draw_moves(rng, self._caption(rng))
        if seconds > 1 and rng.random() < switch:
            return switched(rng, moves, self._caption(rng), float(rng.integers(1, ceil(seconds))))
        return moves

    def _caption(self, rng: np.random.Generator) -> Caption:
        caption = draw_caption(rng)
        return caption if self._colour is None else replace(caption, colour=self._colour)


def render(moves: Sequence[Moves], seconds: Fraction) -> Clips:
    """Picture and sound of the first `seconds` of `moves`."""
    frames, near = draw_frames(moves, round(seconds * FPS))
    last = [clip.legs[-1] for clip in moves]
    return Clips(
        frames=frames,
        sound=strike_sound(moves, round(seconds * SAMPLE_RATE)),
        near=near,
        prompts=tuple(str(leg.caption) for leg in last),
        since_s=tuple(leg.start_s for leg in last),
    )


def draw_frames(moves: Sequence[Moves], num_frames: int) -> tuple[Tensor, Tensor]:
    """Anti-aliased frames [b f 3 h w] in -1..1, and a mask of the pixels near the shape [b f h w]."""
    times_s = (np.arange(num_frames) + 0.5) / FPS
    captions = [clip.legs[leg].caption for clip in moves for leg in clip.leg_index(times_s)]
    centres = torch.from_numpy(np.concatenate([clip.places(times_s) for clip in moves])).float()
    distance = _distance([caption.shape for caption in captions], centres)
    cover = (0.5 - distance).clamp(0, 1).unsqueeze(1)
    ink = _rgb([ALL_COLOURS[caption.colour] for caption in captions])
    paper = _rgb([BACKGROUNDS[caption.background] for caption in captions])
    frames = torch.lerp(paper, ink, cover)
    pattern = "(b f) ... -> b f ..."
    return rearrange(frames, pattern, b=len(moves)), rearrange((distance < NEAR_PIXELS).float(), pattern, b=len(moves))


def strike_sound(moves: Sequence[Moves], num_samples: int) -> Tensor:
    """The tones of all sounding hits [b n]."""
    hits = [
        (clip, time_s, speed, caption)
        for clip, clip_moves in enumerate(moves)
        for caption, times, speeds in clip_moves.hits(num_samples / SAMPLE_RATE)
        if caption.sounds
        for time_s, speed in zip(times, speeds, strict=True)
    ]
    length = round(TONE_S * SAMPLE_RATE)
    sound = torch.zeros(len(moves), num_samples + length)
    if hits:
        clip, time_s, speed, captions = zip(*hits, strict=True)
        first = np.ceil(np.array(time_s) * SAMPLE_RATE).astype(np.int64)
        samples = torch.from_numpy(first)[:, None] + torch.arange(length)
        elapsed_s = torch.from_numpy(first / SAMPLE_RATE - np.array(time_s)).float()[:, None]
        elapsed_s = elapsed_s + torch.arange(length) / SAMPLE_RATE
        envelope = (1 - torch.exp(-elapsed_s / ATTACK_S)) * torch.exp(-elapsed_s / DECAY_S)
        loudness = _amplitude(torch.tensor(speed, dtype=torch.float32))[:, None]
        tones = loudness * envelope * _carriers(captions, samples % _PERIOD)
        sound.index_put_((torch.tensor(clip)[:, None].expand_as(samples), samples), tones, accumulate=True)
    return sound[:, :num_samples]


def _amplitude(speed: Tensor) -> Tensor:
    """Amplitude by impact speed in pixels per second: 0.1 at a touch, 0.5 at the highest speed."""
    return 0.1 + 0.4 * speed / 60


def _carriers(captions: Sequence[Caption], phase: Tensor) -> Tensor:
    """One steady tone of each caption's pitch and timbre [e k], at `phase` samples [e k] of the common period."""
    order = torch.arange(1, len(HARMONICS["circle"]) + 1)
    pitch = torch.tensor([PITCH_HZ[caption.colour] for caption in captions])
    weights = torch.tensor([HARMONICS[caption.shape] for caption in captions])
    cycles = pitch[:, None, None] * order[:, None] * torch.arange(_PERIOD) / SAMPLE_RATE
    tone = (weights[:, :, None] * torch.cos(2 * torch.pi * cycles)).sum(dim=1)
    tone = tone / (weights**2).sum(dim=1, keepdim=True).sqrt()
    return torch.gather(tone, 1, phase)


def _rgb(colours: Sequence[tuple[int, int, int]]) -> Tensor:
    """8-bit colours in -1..1 [f 3 1 1]."""
    return rearrange(torch.tensor(colours, dtype=torch.float32) / 127.5 - 1, "f c -> f c 1 1")


def _distance(shapes: Sequence[str], centres: Tensor) -> Tensor:
    """Signed distance in pixels from each pixel's centre to the shape's edge, negative inside [(b f) h w]."""
    pixels = torch.arange(SIZE) + 0.5
    right, down = (pixels - axis[:, None] for axis in centres.unbind(dim=1))
    distance = torch.empty(len(shapes), SIZE, SIZE)
    for shape in EXTENTS:
        chosen = torch.tensor([name == shape for name in shapes])
        x, y = right[chosen][:, None, :], down[chosen][:, :, None]
        distance[chosen] = _DISTANCES[shape](x, y)
    return distance


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + y**2).sqrt() - EXTENTS["circle"][0]


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - EXTENTS["square"][0]


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """A triangle on its base: the largest of the distances to its three sides."""
    half, _, up, down = EXTENTS["triangle"]
    slope = float(np.hypot(half, up + down))
    return torch.maximum((x.abs() * (up + down) - (y + up) * half) / slope, y - down)


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle}
