import pytest
import torch

from pipeline.attention.kernels import attend, matmul_attention, merge


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_kernel_returns_the_true_output_and_lse(dtype):
    q, k, v = (
        draw(2, 3, 7, 16, dtype=dtype),
        draw(2, 3, 700, 16, dtype=dtype),
        draw(2, 3, 701, 16, dtype=dtype)[:, :, 1:],
    )
    out, lse = attend(q, k, v)
    scores = q.double() @ k.double().transpose(-1, -2) / 4
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ v.double(), rtol=0, atol=tolerance)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=0, atol=tolerance)


def test_flash_and_spelled_out_attention_agree():
    q, k, v = draw(1, 2, 5, 8), draw(1, 2, 600, 8), draw(1, 2, 601, 8)[:, :, 1:]
    for fast, plain in zip(attend(q, k, v), matmul_attention(q, k, v), strict=True):
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-13)


def test_merging_parts_equals_attention_over_all_keys():
    q, k, v = draw(2, 3, 7, 16), draw(2, 3, 90, 16), draw(2, 3, 91, 16)[:, :, 1:]
    parts = [attend(q, k[:, :, a:b], v[:, :, a:b]) for a, b in ((0, 1), (1, 40), (40, 40), (40, 90))]
    for merged, whole in zip(merge(parts), attend(q, k, v), strict=True):
        torch.testing.assert_close(merged, whole, rtol=0, atol=1e-13)


def test_a_part_without_keys_has_output_zero_and_lse_minus_infinity():
    out, lse = attend(draw(1, 2, 5, 8), draw(1, 2, 0, 8), draw(1, 2, 0, 8))
    assert out.abs().max() == 0
    assert (lse == -torch.inf).all()


def test_merging_parts_that_all_lack_keys_gives_zero():
    empty = attend(draw(1, 2, 5, 8), draw(1, 2, 0, 8), draw(1, 2, 0, 8))
    out, lse = merge([empty, empty])
    assert out.abs().max() == 0
    assert (lse == -torch.inf).all()


def test_no_queries_give_no_output():
    out, lse = attend(draw(1, 2, 0, 8), draw(1, 2, 5, 8), draw(1, 2, 6, 8)[:, :, 1:])
    assert out.shape == (1, 2, 0, 8)
    assert lse.shape == (1, 2, 0)


def test_a_nan_is_not_merged_away():
    q, k, v = draw(1, 2, 5, 8), draw(1, 2, 6, 8), draw(1, 2, 7, 8)[:, :, 1:]
    good = attend(q, k, v)
    bad = (good[0] * torch.nan, good[1] * torch.nan)
    assert merge([good, bad])[0].isnan().all()
