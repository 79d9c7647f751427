from itertools import pairwise

import pytest
import torch

from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler, Renoise


@pytest.mark.parametrize("solver", [Euler(), Renoise()])
def test_true_velocities_lead_to_the_clean_latents(solver):
    clean, noise = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 0.7, -1.1]).double()
    x = noise
    for sigma, following in pairwise(noise_levels(6, 2.5)["video"]):
        velocity = (x - clean) / sigma
        x = solver.step(x, velocity, sigma, following, lambda: torch.full_like(clean, 0.2))
    torch.testing.assert_close(x, clean, rtol=0, atol=1e-12)


def test_renoise_puts_fresh_noise_at_the_next_level():
    x, velocity = torch.zeros(3), torch.zeros(3)
    assert torch.equal(Renoise().step(x, velocity, 1.0, 0.25, lambda: torch.ones(3)), torch.full((3,), 0.25))


def test_a_shift_of_one_is_linear_and_a_larger_one_stays_noisy_longer():
    straight, bent = noise_levels(4)["video"], noise_levels(4, 2.5)["video"]
    assert straight == (1, 0.75, 0.5, 0.25, 0)
    assert all(b > s for b, s in zip(bent[1:-1], straight[1:-1], strict=True))
    assert (bent[0], bent[-1]) == (1, 0)


def test_lagging_sound_starts_later_and_both_streams_end_clean():
    levels = noise_levels(8, audio_lag=0.75)
    assert levels["audio"][:4] == (1, 1, 1, 1)
    assert levels["audio"][4] < 1
    assert levels["video"][5:] == (0, 0, 0, 0)
    assert levels["video"][4] > 0
    assert levels["audio"][-1] == 0
