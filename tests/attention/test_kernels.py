import math
from itertools import product

import pytest
import torch

from longtake.pipeline.attention import gpu_kernels, kernels
from longtake.pipeline.attention.kernels import attend, cpu_flash, matmul_attention, merge, prove
from longtake.pipeline.errors import KernelError


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


def test_flash_and_matmul_attention_agree():
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


def no_lse(q, k, v, seen=None):
    out, lse = cpu_flash(q, k, v, seen)
    return out, torch.zeros_like(lse)


def base_2(q, k, v, seen=None):
    out, lse = cpu_flash(q, k, v, seen)
    return out, lse / math.log(2)


def padded(q, k, v, seen=None):
    out, lse = cpu_flash(q, k, v, seen)
    return out, torch.nn.functional.pad(lse, (0, 27))


def elsewhere(*_):
    raise RuntimeError("only for GPUs of 2030")


def blind(q, k, v, _seen=None):
    return cpu_flash(q, k, v)


HERE = [*product((cpu_flash, matmul_attention), (torch.float64, torch.float32, torch.bfloat16))]
HERE += [(gpu_kernels.flex, torch.float32), (gpu_kernels.flex, torch.bfloat16)]  # its LSE is float32


@pytest.mark.parametrize(("kernel", "dtype"), HERE, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_kernels_that_run_here_are_proved_correct(kernel, dtype, masked):
    prove(kernel, "cpu", dtype, 16, masked)


@pytest.mark.parametrize(
    ("kernel", "complaint"),
    [
        (no_lse, "no_lse returns a log-sum-exp that is .* from the true one"),
        (base_2, "base_2 returns a log-sum-exp that is"),
        (padded, r"padded returns a log-sum-exp of \[2, 3, 64\], not \[2, 3, 37\]"),
        (elsewhere, "elsewhere does not run on cpu with torch.float32: only for GPUs of 2030"),
    ],
)
def test_a_kernel_without_a_true_lse_is_refused(kernel, complaint):
    with pytest.raises(KernelError, match=complaint):
        prove(kernel, "cpu", torch.float32, 16)


def test_a_kernel_that_does_not_mask_is_refused_where_masks_are_needed():
    prove(blind, "cpu", torch.float32, 16)
    with pytest.raises(KernelError, match="blind returns an output that is"):
        prove(blind, "cpu", torch.float32, 16, masked=True)


@pytest.mark.parametrize("kernel", gpu_kernels.GPU_KERNELS[:3], ids=lambda kernel: kernel.__name__)
def test_gpu_kernels_give_an_lse_for_each_query(kernel):
    q, k = (torch.empty(2, 3, n, 16, dtype=torch.float16, device="meta") for n in (37, 150))
    out, lse = kernel(q, k, k)
    assert out.shape == q.shape
    assert lse.shape == (2, 3, 37)
    with pytest.raises(ValueError, match="takes no mask"):
        kernel(q, k, k, torch.ones(2, 150, dtype=torch.bool, device="meta"))


def test_without_a_correct_gpu_kernel_matmul_attention_is_used(monkeypatch):
    monkeypatch.setattr(kernels, "GPU_KERNELS", (no_lse, elsewhere))
    monkeypatch.setattr(kernels, "prove", lambda kernel, _, *rest: prove(kernel, "cpu", *rest))
    kernels.kernel_for.cache_clear()
    assert kernels.kernel_for("cuda", torch.float32, 16) is matmul_attention
    kernels.kernel_for.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((5.0, 2.0, 3.0), 1), ((5.0, 4.5, 4.1), 0), ((1.0, 2.0, 3.0), 0), ((5.0, 3.0, 2.0), 2)],
    ids=["the fastest", "not one that is hardly faster", "the first", "the last"],
)
def test_of_the_proven_kernels_the_clearly_fastest_is_chosen_and_named(monkeypatch, seconds, chosen):
    def first(*args):
        return cpu_flash(*args)

    def second(*args):
        return cpu_flash(*args)

    three = (first, second, matmul_attention)
    needed = dict(zip(three, seconds, strict=True))
    monkeypatch.setattr(kernels, "GPU_KERNELS", (no_lse, *three))
    monkeypatch.setattr(kernels, "prove", lambda kernel, _, *rest: prove(kernel, "cpu", *rest))
    monkeypatch.setattr(kernels, "timed", lambda kernel, **_: needed[kernel])
    kernels.kernel_for.cache_clear()
    assert kernels.kernel_for("cuda", torch.float32, 16) is three[chosen]
    kernels.kernel_for.cache_clear()


@pytest.mark.parametrize("kernel", [cpu_flash, matmul_attention], ids=lambda kernel: kernel.__name__)
def test_keys_that_are_not_seen_count_as_if_they_were_not_there(kernel):
    q, k, v = draw(3, 2, 5, 8), draw(3, 2, 40, 8), draw(3, 2, 41, 8)[:, :, 1:]
    seen = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[2] = False
    out, lse = kernel(q, k, v, seen)
    for row in (0, 1):
        keys, values = (x[row : row + 1, :, seen[row]] for x in (k, v))
        for got, expected in zip((out, lse), attend(q[row : row + 1], keys, values), strict=True):
            torch.testing.assert_close(got[row : row + 1], expected, rtol=0, atol=1e-13)
    assert out[2].abs().max() == 0
    assert (lse[2] == -torch.inf).all()
