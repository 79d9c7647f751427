import torch

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.models.window_matching import HEAD_DIM, STREAM, Appearance, Matching, WindowMatching

MATCHING = Matching(width=6, num_heads=2, side=12, frames=2)


class WholeContext:
    """Attention over all frames at once, remembering what was seen."""

    def attend(self, site, streams, positions):
        rotate = MATCHING.rope().rotation(positions[STREAM])
        qkv: QKV = streams[STREAM]
        scores = rotate(qkv.q) @ rotate(qkv.k).transpose(-1, -2) / HEAD_DIM**0.5
        self.weights = scores.softmax(dim=-1)
        self.seen = self.weights @ qkv.v
        return {STREAM: self.seen}


def panned(step=2, frames=3, side=12):
    """Frames [f 3 h w] of noise that moves `step` pixels to the left in each."""
    wide = torch.rand(1, 3, side, side + step * frames, generator=torch.Generator().manual_seed(0)).double()
    return torch.cat([wide[..., step * n : step * n + side] for n in range(frames)])


def matched(frames):
    torch.manual_seed(0)
    layer, context = WindowMatching(MATCHING, shifted=False).double(), WholeContext()
    with torch.no_grad():
        out, new = layer(
            torch.rand(len(frames), 6, 12, 12).double(), Appearance.of(frames), range(len(frames)), context
        )
    return out, new, context


def test_each_head_fetches_from_the_frame_of_its_age_what_has_moved_from_there():
    frames = panned()
    _, _, context = matched(frames)
    fetched = context.seen[0].unflatten(1, (3, 12, 12))  # n f y x d
    grey = Appearance.of(frames).slopes.grey
    for head, age in enumerate((1, 2)):
        there = slice(3, 12 - 2 * age - 3)  # whose neighbourhood was in the older frame too
        places = fetched[head, 2, 4:8, there, -3:-1] * 12
        rows, columns = torch.arange(4, 8), torch.arange(12)[there] + 2 * age
        assert (places[..., 0] - rows[:, None]).abs().max() < 0.05
        assert (places[..., 1] - columns).abs().max() < 0.05
        torch.testing.assert_close(fetched[head, 2, 4:8, there, -1], grey[2, 4:8, there], rtol=0, atol=1e-3)


def test_without_a_past_a_pixel_fetches_itself_and_nothing_is_new():
    frames = panned(frames=1)
    _, new, context = matched(frames)
    own = context.weights.diagonal(dim1=-2, dim2=-1)
    assert own.min() > 0.99
    assert new[:, : MATCHING.new_channels // 2].abs().max() < 0.05


def test_what_moves_adds_to_the_features_and_what_stands_still_does_not():
    still = panned(step=0)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    layer = WindowMatching(MATCHING, shifted=False).double()
    x = torch.rand(1, 6, 12, 12, generator=generator).double().expand(3, -1, -1, -1)
    with torch.no_grad():
        layer.join[0].bias.zero_()
        alike, _ = layer(x, Appearance.of(still), range(3), WholeContext())
        other, _ = layer(
            x * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1), Appearance.of(still), range(3), WholeContext()
        )
    assert (alike - x).abs().max() < 1e-3 * (other[2] - 3 * x[2]).abs().max()
