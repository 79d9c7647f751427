"""FlashVSR's networks in pieces equal them as a whole, and Wan as diffusers has it."""

import pytest
import torch

from longtake.pipeline.adapters.flashvsr.attention import BlockSparseAttention, attend_densely, from_windows, to_windows
from longtake.pipeline.adapters.flashvsr.decoder import TinyDecoder
from longtake.pipeline.adapters.flashvsr.dit import StreamingDiT
from longtake.pipeline.adapters.flashvsr.projector import Projector
from tests.adapters.flashvsr.tiny import DIT, film
from tests.adapters.flashvsr.whole import KV_UNITS, decoded_at_once, of_diffusers, projected_at_once

CHUNKS = (6, 2, 2, 2)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def projected(projector: Projector, frames: torch.Tensor) -> torch.Tensor:
    tails, tokens = projector.start(frames[0]), []
    for group in frames[1:].split(4):
        token, tails = projector(group, tails)
        tokens.append(token)
    return torch.stack(tokens)


def tiny_projector(variant: str) -> Projector:
    torch.manual_seed(0)
    return Projector((8, 6), 12, variant).double()


@torch.inference_mode()
def test_the_projector_in_groups_is_the_projector_over_the_whole_film():
    frames = 2 * film(41, 48, 32).double() - 1
    projector = tiny_projector("v1.1")
    assert apart(projected(projector, frames), projected_at_once(projector, frames)) <= 1e-10


@torch.inference_mode()
def test_the_variants_agree_on_a_still_and_part_when_it_moves():
    still, moving = film(1).double().expand(17, -1, -1, -1), film(17).double()
    old, new = tiny_projector("v1"), tiny_projector("v1.1")
    assert torch.equal(projected(old, still), projected(new, still))
    assert apart(projected(old, moving), projected(new, moving)) > 1e-2


@torch.inference_mode()
def test_the_decoder_latent_by_latent_is_the_decoder_over_all_of_them():
    torch.manual_seed(0)
    decoder = TinyDecoder((8, 8, 4, 4), 4).double()
    latents, frames = torch.randn(12, 4, 8, 12).double(), 2 * film(48, 64, 96).double() - 1
    memory, pictures = decoder.start(64, 96), []
    for latent, group in zip(latents, frames.split(4), strict=True):
        some, memory = decoder(latent, group, memory)
        pictures.append(some)
    assert apart(torch.cat(pictures), decoded_at_once(decoder.state_dict(), latents, frames)) <= 1e-10


def tiny_dit(attend) -> StreamingDiT:
    torch.manual_seed(0)
    dit = StreamingDiT(DIT, attend, KV_UNITS).eval()
    for name, tensor in dit.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(tensor, mean=1)
    return dit


def streamed(dit: StreamingDiT, latents: torch.Tensor, added: torch.Tensor, prompt: torch.Tensor, first: int = 0):
    constants, past, velocities = dit.constants(prompt), [], []
    for some, tokens in zip(latents.split(CHUNKS), added.split(CHUNKS), strict=True):
        velocity, past = dit(some, tokens, first, constants, past)
        velocities.append(velocity)
        first += len(some)
    return torch.cat(velocities)


def given(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents of two by three windows, nothing added, a prompt."""
    torch.manual_seed(1)
    latents = torch.randn(sum(CHUNKS), DIT.latent_channels, 32, 48, dtype=dtype)
    return latents, torch.randn(sum(CHUNKS), 16, 24, DIT.width, dtype=dtype), torch.randn(1, 3, 8, dtype=dtype)


@torch.inference_mode()
def test_the_transformer_in_chunks_is_diffusers_wan_under_a_mask():
    dit, (latents, added, prompt) = tiny_dit(attend_densely), given(torch.float32)
    expected = of_diffusers(dit, latents, added, prompt)
    assert apart(streamed(dit, latents, added, prompt), expected) <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("first", [2, 1204, 10_000_000])
@pytest.mark.parametrize("attend", [attend_densely, BlockSparseAttention(ratio=0.03, local_range=3)])
@torch.inference_mode()
def test_the_same_content_is_denoised_alike_wherever_it_lies_in_the_film(attend, first):
    dit, latents = tiny_dit(attend).double(), given(torch.float64)
    assert apart(streamed(dit, *latents), streamed(dit, *latents, first=first)) <= 1e-10


def test_windows_are_two_latents_by_eight_by_eight_and_come_apart_again():
    tokens = torch.arange(4 * 16 * 24).view(4, 16, 24, 1)
    ordered = to_windows(tokens)
    assert torch.equal(from_windows(ordered, (2, 3)), tokens)
    assert set(ordered[128:256].flatten().tolist()) == set(tokens[:2, :8, 8:16].flatten().tolist())


def chosen_one_by_one(q: torch.Tensor, k: torch.Tensor, rows: int, columns: int, budget: int, reach: int):
    """The published choice, pair by pair: the `budget` largest shares of a unit, without ties at the last."""
    windows, heads = rows * columns, q.shape[1]
    num_q, num_k = q.shape[2] // 128, k.shape[2] // 128
    chosen = torch.zeros(heads, num_q, num_k, dtype=torch.bool)
    for head in range(heads):
        shares = torch.zeros(num_q, num_k, dtype=torch.float64)
        for a in range(num_q):
            for b in range(num_k):
                (row, column), (other_row, other_column) = divmod(a % windows, columns), divmod(b % windows, columns)
                if max(abs(row - other_row), abs(column - other_column)) <= reach // 2:
                    mean_q, mean_k = q[0, head, 128 * a :][:128].mean(0), k[0, head, 128 * b :][:128].mean(0)
                    shares[a, b] = (mean_q @ mean_k / q.shape[-1] ** 0.5).exp()
        shares /= shares.sum(dim=1, keepdim=True)
        for unit in range(num_q // windows):
            part = shares[unit * windows : (unit + 1) * windows]
            least = sorted(part.flatten().tolist(), reverse=True)[budget]
            chosen[head, unit * windows : (unit + 1) * windows] = part > least
    return chosen


@pytest.mark.parametrize(("ratio", "budget"), [(0.05, 17), (0.01, 2)])
def test_windows_are_chosen_as_published_and_attended_exactly(ratio, budget):
    torch.manual_seed(0)
    rows, columns, reach = 2, 3, 3
    q, k, v = (torch.randn(1, 2, 128 * rows * columns * units, 8, dtype=torch.float64) for units in (2, 3, 3))
    attention = BlockSparseAttention(ratio, reach)
    chosen = chosen_one_by_one(q, k, rows, columns, budget, reach)
    assert torch.equal(attention.visible(q, k, (rows, columns)), chosen)
    mask = chosen.repeat_interleave(128, 1).repeat_interleave(128, 2)
    weights = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0)
    assert apart(attention(q, k, v, (rows, columns)), weights @ v) <= 1e-10
    assert not chosen.any(dim=-1).all(), "so small a budget leaves windows without any key"
