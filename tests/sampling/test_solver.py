import pytest
import torch

from pipeline.sampling.schedule import linear, shifted
from pipeline.sampling.solver import Euler, Renoise


@pytest.mark.parametrize("solver", [Euler(), Renoise()])
def test_true_velocities_lead_to_the_clean_latents(solver):
    clean, noise = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 0.7, -1.1]).double()
    x = noise
    for sigma, following in zip(shifted(6, 2.5), shifted(6, 2.5)[1:], strict=False):
        velocity = (x - clean) / sigma
        x = solver.step(x, velocity, sigma, following, lambda: torch.full_like(clean, 0.2))
    torch.testing.assert_close(x, clean, rtol=0, atol=1e-12)


def test_renoise_puts_fresh_noise_at_the_next_level():
    x, velocity = torch.zeros(3), torch.zeros(3)
    assert torch.equal(Renoise().step(x, velocity, 1.0, 0.25, lambda: torch.ones(3)), torch.full((3,), 0.25))


def test_a_shift_of_one_is_linear_and_a_larger_one_stays_noisy_longer():
    assert shifted(4, 1) == linear(4) == [1, 0.75, 0.5, 0.25, 0]
    assert all(bent > straight for bent, straight in zip(shifted(4, 2.5)[1:-1], linear(4)[1:-1], strict=True))
    assert (shifted(4, 2.5)[0], shifted(4, 2.5)[-1]) == (1, 0)
