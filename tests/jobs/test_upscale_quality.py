import pytest
import torch
from torch.nn import functional

from longtake.jobs.bench.frame_scores import Judge, Motion, Score, ssim
from longtake.jobs.bench.resampling import resize
from longtake.jobs.bench.upscale_quality import CLIPS, Comparison, quality_figures


def picture(height: int = 48, width: int = 64) -> torch.Tensor:
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("size", [(24, 32), (12, 16), (96, 128), (37, 53)])
def test_bicubic_is_the_filter_of_pytorch_with_antialiasing(size):
    theirs = functional.interpolate(picture(), size=size, mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(resize(picture(), size, "bicubic"), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
def test_filters_keep_a_flat_picture(kernel):
    flat = torch.full((1, 3, 12, 10), 0.3)
    torch.testing.assert_close(resize(flat, (31, 45), kernel), torch.full((1, 3, 31, 45), 0.3))


def test_a_shift_is_found_and_a_frame_that_follows_it_has_no_warp_error():
    after = picture()[0].mean(0)
    before = after.roll((2, -3), (0, 1))
    motion = Motion.between(before, after)
    assert motion.warp_error(before, after) < 1e-4 < motion.warp_error(after, before)


def test_the_original_scores_best_and_noise_lowers_every_score():
    truth = picture().repeat(3, 1, 1, 1)
    noise = 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    judge = Judge(truth)
    little, much = judge.score(truth + noise), judge.score(truth + 3 * noise)
    assert little.psnr_db == pytest.approx(34, abs=1)
    assert little.psnr_db - much.psnr_db == pytest.approx(9.5, abs=1)
    assert 1 == ssim(truth[:, 0], truth[:, 0]) > little.ssim > much.ssim
    assert little.warp_error < much.warp_error


def test_figures_are_the_worst_over_all_clips():
    def row(clip: str, scale: int, gain: float) -> Comparison:
        filters = Score(30, 0.8, 2.0), Score(31, 0.81, 2.1)
        return Comparison(clip, scale, Score(31 + gain, 0.9, 1.0), Score(31, 0.9, 1.0), *filters)

    figures = quality_figures([row("a", 2, 1.0), row("b", 2, 0.5), row("a", 4, 0.2), row("b", 4, 0.6)])
    assert figures == pytest.approx(
        {"psnr_gain_db_min": 0.2, "ssim_gain_min": 0.09, "warp_ratio_max": 0.5, "temporal_gain_db": 0.4}
    )


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_the_clips_can_be_read_and_reduced_by_four(clip):
    frames = clip.read()
    assert frames.shape == (clip.count, 3, clip.height, clip.width)
    assert clip.height % 8 == clip.width % 8 == 0
    assert float(frames.std()) > 0.1
