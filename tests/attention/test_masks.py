"""Padding that is not seen counts as if it were absent, on any rank that keeps it."""

import pytest
import torch

from longtake.pipeline.attention.context import QKV, Site
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.parallel.rank_acts import AUDIO, FRAMES, HEAD_DIM, HEADS, SIZE, TEXT, site_store, span

SEEN = torch.tensor([[True, False, True, False]])
SITES = {"joint": ("video", "audio", "text"), "video_text": ("video", "text")}


def draw(name: str, tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + len(name))
    return torch.randn(3, 1, HEADS, tokens, HEAD_DIM, generator=generator, dtype=torch.float64)


def attend(parallel, text, seen):
    """Each site's outputs over two chunks, with the given text tokens [3 1 h l d]."""
    store, found = site_store(parallel), {}
    for chunk in (0, 1):
        with store.open(span(chunk), "guided", seen=seen) as context:
            for kind, streams in SITES.items():
                qkv, positions = {"text": QKV(None, text[1], text[2])}, {}
                for name in streams[:-1]:
                    frames, size = (FRAMES, SIZE) if name == "video" else (1, AUDIO)
                    x = draw(name, frames * size, chunk).unflatten(3, (frames, size))
                    q, k, v = x[..., parallel.columns(name, size), :].flatten(3, 4)
                    empty = k[:, :, :0]
                    qkv[name] = QKV(q, k, v) if kind == "joint" else QKV(q, empty, empty)
                    if kind == "joint":
                        positions[name] = torch.rand(frames * size, 2, dtype=torch.float64)
                        positions[name][:] = torch.arange(frames * size)[:, None]
                for name, out in context.attend(Site(0, kind), qkv, positions).items():
                    found[chunk, kind, name] = out
    return found


def test_tokens_that_are_not_seen_count_as_if_they_were_absent():
    text = draw("text", TEXT, 7)
    masked = attend(ONE_RANK, text, {"text": SEEN})
    short = attend(ONE_RANK, text[:, :, :, SEEN[0]], None)
    whole = attend(ONE_RANK, text, None)
    for key, expected in short.items():
        torch.testing.assert_close(masked[key], expected, rtol=0, atol=1e-13)
        assert (masked[key] - whole[key]).abs().max() > 1e-3


@pytest.mark.parametrize("degrees", [Degrees(ulysses=3), Degrees(ring=3), Degrees(2, 2)], ids=str)
def test_ranks_that_share_masked_text_see_what_one_rank_sees(degrees):
    text = draw("text", TEXT, 7)
    expected = attend(ONE_RANK, text, {"text": SEEN})
    for rank, found in enumerate(run_threads(lambda parallel: attend(parallel, text, {"text": SEEN}), degrees)):
        for (chunk, kind, name), got in found.items():
            whole = expected[chunk, kind, name]
            if name == "video":
                columns = degrees.columns(degrees.place(rank), SIZE)
                whole = whole.unflatten(2, (FRAMES, SIZE))[:, :, :, columns.start : columns.stop].flatten(2, 3)
            torch.testing.assert_close(got, whole, rtol=0, atol=1e-12)


def test_a_prompt_of_which_no_token_is_seen_gives_zeros():
    nothing = {"text": torch.zeros_like(SEEN)}
    for (_, kind, _), out in attend(ONE_RANK, draw("text", TEXT, 7), nothing).items():
        assert bool(out.abs().max() == 0) == (kind == "video_text")


def test_masking_a_kept_stream_is_an_error_of_the_caller():
    store = site_store(ONE_RANK)
    qkv = QKV(*draw("audio", AUDIO, 0))
    mask, places = torch.ones(1, AUDIO, dtype=torch.bool), torch.zeros(AUDIO, 2, dtype=torch.float64)
    with store.open(span(0), "guided", seen={"audio": mask}) as context, pytest.raises(AssertionError, match="length"):
        context.attend(Site(0, "audio_self"), {"audio": qkv}, {"audio": places})
