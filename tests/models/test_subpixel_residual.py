import pytest
import torch
from torch.nn import functional

from longtake.pipeline.models.subpixel_residual import INSIDE, Slopes, subpixel_residual


def smooth(height=24, width=30, seed=0) -> torch.Tensor:
    """A picture [1 h w] that is the same however it is read between its pixels."""
    coarse = torch.rand(1, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, size=(height, width), mode="bicubic")[0].double()


def shifted(picture: torch.Tensor, down: float, across: float) -> torch.Tensor:
    """`picture` [1 h w], each pixel read so far beside itself."""
    height, width = picture.shape[1:]
    theta = torch.tensor([[[1, 0, 2 * across / width], [0, 1, 2 * down / height]]], dtype=picture.dtype)
    grid = functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
    return functional.grid_sample(picture[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]


@pytest.mark.parametrize(("down", "across"), [(0.375, -0.125), (-0.125, 0.125), (0.125, 0.375)])
def test_a_sample_is_laid_where_it_was_taken_and_adds_nothing_to_what_is_smooth(down, across):
    picture = smooth()
    difference, weight = subpixel_residual(Slopes.of(picture), shifted(picture, down, across)[None])
    place = round((down + 0.375) * INSIDE) * INSIDE + round((across + 0.375) * INSIDE)
    inner = (slice(None), slice(None), slice(5, -5), slice(5, -5))
    assert (weight[inner].argmax(dim=1) == place).double().mean() > 0.9
    assert difference[inner].abs().mean() < 1e-3


def test_a_picture_that_is_matched_to_itself_is_nothing_new_and_lies_in_the_middle():
    difference, weight = subpixel_residual(Slopes.of(smooth()), smooth()[None])
    assert difference.abs().max() < 1e-12
    torch.testing.assert_close(weight, weight.flip(1))
    assert weight.amax(dim=1).min() > 0.4


def test_what_no_motion_explains_is_handed_on_where_it_is():
    picture = smooth()
    other = picture.clone()
    other[0, 12, 15] += 0.05
    difference, _ = subpixel_residual(Slopes.of(picture), other[None])
    sheet = difference.abs().sum(dim=1)[0]
    assert (sheet.argmax() // picture.shape[2], sheet.argmax() % picture.shape[2]) == (12, 15)


def test_what_is_unlike_is_trusted_less():
    picture = smooth()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1), dtype=picture.dtype)
    little, much = (
        subpixel_residual(Slopes.of(picture), (picture + share * noise)[None])[1].sum() for share in (0.002, 0.1)
    )
    assert much < 0.1 * little
