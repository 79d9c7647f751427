import torch
from hypothesis import given, strategies as st

from longtake.pipeline.sampling.noise import KeyedNoise


@given(st.integers(0, 10**9), st.integers(1, 9), st.integers(1, 8))
def test_noise_does_not_depend_on_where_chunks_begin(start, count, split):
    noise = KeyedNoise(seed=3)
    whole = noise.draw("video", range(start, start + count), (2, 3, 3))
    split = min(split, count)
    parts = [
        noise.draw("video", span, (2, 3, 3))
        for span in (range(start, start + split), range(start + split, start + count))
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_every_part_of_the_key_changes_the_noise():
    base = KeyedNoise(3).draw("video", [7], (50,))
    others = [
        KeyedNoise(4).draw("video", [7], (50,)),
        KeyedNoise(3).draw("audio", [7], (50,)),
        KeyedNoise(3).draw("video", [8], (50,)),
        KeyedNoise(3).draw("video", [7], (50,), draw=1),
    ]
    assert not any(torch.equal(base, other) for other in others)
    assert torch.equal(base, KeyedNoise(3).draw("video", [7], (50,)))


def test_noise_is_standard_normal_and_independent_between_latents():
    rows = KeyedNoise(0).draw("video", range(400), (250,)).double()
    assert abs(rows.mean()) < 0.01
    assert abs(rows.std() - 1) < 0.01
    correlation = torch.corrcoef(rows) - torch.eye(400, dtype=torch.float64)
    assert correlation.abs().max() < 0.35, "two latents share their noise"


def test_no_latents_draw_no_noise():
    assert KeyedNoise(0).draw("audio", [], (5,)).shape == (0, 5)
