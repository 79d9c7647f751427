"""A mask means what the dense one means, on one rank and on many, over pages of any length."""

from functools import partial
from random import Random

import pytest
import torch
from hypothesis import given, strategies as st

from longtake.pipeline.attention.mask import BlockPattern, Mask, Span
from longtake.pipeline.attention.rope import Rope
from longtake.pipeline.attention.shares import Grid, Share
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.parallel import rank_acts
from tests.parallel.rank_acts import CHUNK_FRAMES, KINDS, attend_everywhere, site_store, span


def num_queries(rows) -> int:
    return max(each.stop for each in rows.queries.values())


def draw(site, rows) -> Random:
    """Random numbers that are the same on every rank."""
    return Random(f"{site} {num_queries(rows)} {rows.num_keys}")


def spans(site, rows):
    """Overlapping spans; some rows are in none, so they see nothing."""
    rng, queries, keys = draw(site, rows), num_queries(rows), rows.num_keys

    def run(total):
        return tuple(sorted((rng.randint(0, total), rng.randint(0, total))))

    return Mask(spans=[Span(run(queries), run(keys)) for _ in range(6)])


def blocks(site, rows):
    rng = draw(site, rows)
    visible = [[rng.random() < 0.6 for _ in range(-(-rows.num_keys // 3))] for _ in range(-(-num_queries(rows) // 4))]
    return Mask(blocks=BlockPattern(torch.tensor(visible), 4, 3))


def keys(site, rows):
    rng = draw(site, rows)
    return Mask(keys=torch.tensor([[rng.random() < 0.8 for _ in range(rows.num_keys)]]))


def all_forms(site, rows):
    return Mask(keys(site, rows).keys, spans(site, rows).spans, blocks(site, rows).blocks)


def some_sites(site, rows):
    """A prompt for each half of the picture; other sites are not masked."""
    if site.kind != "video_text":
        return None
    picture, text = rows.queries["video"], rows.keys[next(key for key in rows.keys if key[0] == "text")]
    half = len(picture) // 2
    return Mask(spans=[Span((0, half), (text.start, 1)), Span((half, len(picture)), (1, text.stop))])


FORMS = [spans, blocks, keys, all_forms, some_sites]


def dense(mask: Mask, queries: int, keys: int) -> torch.Tensor:
    """Which query sees which key, as a dense mask [q k]."""
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if mask.spans is not None:
        seen[:] = False
        for (first, last), (start, stop) in mask.spans:
            seen[first:last, start:stop] = True
    if mask.blocks is not None:
        pattern = mask.blocks
        rows = pattern.visible.repeat_interleave(pattern.query_rows, 0).repeat_interleave(pattern.key_rows, 1)
        seen &= rows[:queries, :keys]
    return seen if mask.keys is None else seen & mask.keys[0]


class Recording:
    """A context that keeps the queries, keys and values of every site."""

    def __init__(self, context):
        self.context, self.streams = context, {}

    def attend(self, site, streams, positions):
        self.streams[site.kind] = streams
        return self.context.attend(site, streams, positions)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@torch.inference_mode()
def test_masked_attention_is_attention_under_the_dense_mask(form):
    store = site_store(ONE_RANK, Rope.of_axes([(0.0, 0.0), (0.0, 0.0)]))  # which rotates nothing
    masks, past = {}, []

    def visibility(site, rows):
        masks[site.kind] = (rows, form(site, rows))
        return masks[site.kind][1]

    for index, frames in enumerate(CHUNK_FRAMES):
        visible = store.chunks("guided")
        with store.open(span(index), "guided", write=True, visibility=visibility) as context:
            recording = Recording(context)
            got = attend_everywhere(recording, ONE_RANK, frames, seed=index)
            context.commit()
        past.append(recording.streams)
        for kind, roles in KINDS.items():
            rows, mask = masks[kind]
            pairs = [
                (n, c)
                for n, role in roles.items()
                if "k" in role
                for c in ([*visible, index] if n != "text" else [index])
            ]
            assert list(rows.keys) == pairs, "streams as in the layout, the oldest chunk first"
            k, v = (torch.cat([getattr(past[c][kind][n], part) for n, c in pairs], dim=2) for part in ("k", "v"))
            querying = {n: past[index][kind][n].q for n, role in roles.items() if "q" in role}
            q = torch.cat(list(querying.values()), dim=2)
            seen = (
                torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
                if mask is None
                else dense(mask, q.shape[2], k.shape[2])
            )
            scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
            expected = scores.softmax(-1).nan_to_num(0.0) @ v  # a query that sees nothing gets zeros
            for (name, part), out in zip(
                querying.items(), torch.split(expected, [x.shape[2] for x in querying.values()], 2), strict=True
            ):
                assert part.shape == out.shape
                torch.testing.assert_close(got[f"{kind} {name}"], out.transpose(1, 2).flatten(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=3), Degrees(ring=3), Degrees(2, 2)], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_ranks_that_share_a_masked_site_see_what_one_rank_sees(degrees, form):
    rank_acts.sites_of_one_rank(form)  # once, and not by each thread
    for differences in run_threads(partial(rank_acts.sites, visibility=form), degrees):
        assert len(differences) == 7
        assert max(differences.values()) <= 1e-12, differences


@torch.inference_mode()
def test_a_visibility_that_masks_nothing_changes_no_bit():
    masked = site_store(ONE_RANK)
    for index, frames in enumerate(CHUNK_FRAMES):
        with masked.open(span(index), "guided", write=True, visibility=lambda _site, _rows: None) as context:
            expected = rank_acts.sites_of_one_rank(None)[index]
            got = attend_everywhere(context, ONE_RANK, frames, seed=index)
            assert all(torch.equal(got[key], expected[key]) for key in expected)
            context.commit()


@given(st.integers(0, 4), st.integers(0, 7), st.integers(1, 4), st.data())
def test_rows_count_and_number_themselves(frames, size, count, data):
    rows = Grid(frames, size).rows(Share(data.draw(st.integers(0, count - 1)), count))
    numbers = rows.numbers()
    assert len(numbers) == rows.count
    for row in range(-2, frames * size + 3):
        assert rows.before(row) == sum(number < row for number in numbers)
