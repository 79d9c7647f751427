"""What a GPU computes in few kernels equals what a CPU computes in several."""

import pytest
import torch

from longtake.pipeline.attention.fused import fused_plus_product, fused_rotated, plus_product, rotated
from longtake.pipeline.attention.rope import Rope


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_sum_with_a_product_is_the_same_in_one_kernel(dtype):
    base, x, y = draw(2, 1, 6, dtype=dtype), draw(2, 5, 6, dtype=dtype), draw(2, 1, 6)
    one, several = (act(base, x, y, dtype) for act in (fused_plus_product, plus_product))
    assert one.dtype == several.dtype == dtype
    torch.testing.assert_close(one, several, rtol=1e-14 if dtype == torch.float64 else 1e-2, atol=1e-13)


def test_a_cpu_rounds_the_product_before_the_sum():
    base, x, y = (draw(64, 64, dtype=torch.float32) + shift for shift in (0, 1, 2))
    assert torch.equal(plus_product(base, x, y, torch.float32), base + x * y)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rotation_is_the_same_in_fewer_kernels(interleaved):
    x, cos, sin = draw(2, 5, 3, 8).transpose(1, 2), draw(3, 5, 1, 4), draw(1, 5, 2, 4)
    fewer, several = (act(x, cos, sin, interleaved=interleaved) for act in (fused_rotated, rotated))
    torch.testing.assert_close(fewer, several)
    assert fewer.stride() == x.stride(), "so that the output of attention needs no copy"


def test_neighbouring_channels_are_rotated_as_halves_are_and_stored_in_halves():
    frequencies, positions, x = [[2.0, 0.5], [1.0, 0.1]], draw(6, 2), draw(1, 3, 6, 8)
    in_halves = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    interleaved = Rope.of_axes(frequencies, interleaved=True).rotation(positions)
    halves = Rope.of_axes(frequencies).rotation(positions)
    assert torch.equal(interleaved(x), halves(in_halves))
    assert torch.equal(interleaved.again(interleaved(x)), halves(halves(in_halves)))
    first, second = in_halves.chunk(2, dim=-1)
    cos, sin = halves.cos, halves.sin
    assert torch.equal(halves(in_halves), torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1))
