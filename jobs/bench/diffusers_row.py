"""diffusers' own Ulysses on the shapes of `bench parity`: its difference from one rank, or its error."""

from collections.abc import Sequence
from functools import partial

import torch

from longtake.jobs.bench.diffusers_ulysses import shared_by_ulysses
from longtake.jobs.bench.parity_cases import CHUNK_LATENTS, SIGMA, TEXT_TOKENS, VIDEO_CHANNELS, relative
from longtake.jobs.bench.ranks import run_ranks
from longtake.jobs.bench.tiny_wan import tiny_wan

Shape = tuple[int, tuple[int, int]]
"""Number of heads; latent height and width, with one token per latent pixel."""


def their_differences(shapes: Sequence[Shape], ranks: Sequence[int], seed: int) -> dict[tuple[int, Shape], float | str]:
    """By number of ranks and shape: the largest difference between diffusers' Wan on several ranks and on one, in
    float32 over one uncached chunk, or the error that diffusers raises."""
    found: dict[tuple[int, Shape], float | str] = {}
    for num_ranks in ranks:
        for shape, outcome in run_ranks(partial(_compare, shapes, num_ranks, seed), num_ranks)[0].items():
            found[num_ranks, shape] = outcome
    return found


def _compare(shapes: Sequence[Shape], num_ranks: int, seed: int, rank: int) -> dict[Shape, float | str]:
    del rank
    return {shape: _plain_or_anything(shape, num_ranks, seed) for shape in shapes}


def _plain_or_anything(shape: Shape, num_ranks: int, seed: int) -> float | str:
    """Use the ordinary mode if it accepts the shape, and otherwise the mode for shapes that do not divide."""
    plain = _difference(shape, num_ranks, seed, anything=False)
    return plain if isinstance(plain, float) else _difference(shape, num_ranks, seed, anything=True)


@torch.inference_mode()
def _difference(shape: Shape, num_ranks: int, seed: int, anything: bool) -> float | str:
    heads, (height, width) = shape
    torch.manual_seed(seed)
    wan = tiny_wan(heads)
    x = torch.randn(1, VIDEO_CHANNELS, CHUNK_LATENTS, height, width)
    timestep = torch.full((1, CHUNK_LATENTS * height * width), 1000 * SIGMA)
    text = torch.randn(1, TEXT_TOKENS, 16)
    expected = wan(x, timestep, text, return_dict=False)[0]
    try:
        with shared_by_ulysses(wan, num_ranks, anything):
            return relative(wan(x, timestep, text, return_dict=False)[0], expected)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
