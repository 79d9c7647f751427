"""Several ranks together compute what one rank computes: the same attention, store and bits, in every shape.

Most ranks here are threads, which make the same exchanges; four real processes use gloo, and are started once.
"""

from functools import partial
from itertools import chain

import pytest
import torch

from longtake.jobs.bench.parity import compare
from longtake.jobs.bench.ranks import run_ranks
from longtake.pipeline.attention.shares import Grid, Share
from longtake.pipeline.errors import SpecError
from longtake.pipeline.parallel.context_parallel import ContextParallel
from longtake.pipeline.parallel.degrees import Degrees, Place
from longtake.pipeline.parallel.traffic import SiteTraffic
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.parallel import rank_acts
from tests.parallel.rank_acts import CASES, GLOO_CASES, HYBRID, R3, U3

GANGS = pytest.mark.parametrize("degrees", [U3, R3, HYBRID], ids=["ulysses 3", "ring 3", "2 x 2"])
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def gloo():
    return run_ranks(rank_acts.act, 4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_film_that_ranks_share_equals_that_of_one_rank_and_has_the_same_bits_on_all(case):
    outcomes = run_threads(partial(compare, case, 0), case.degrees, case.sharded)
    assert outcomes[0].difference <= LIMITS[case.dtype]
    assert len({outcome.digest for outcome in outcomes}) == 1


@pytest.mark.parametrize("case", GLOO_CASES, ids=str)
def test_processes_over_gloo_render_what_threads_render(gloo, case):
    assert gloo[0][case].difference <= LIMITS[case.dtype]
    assert len({rank[case].digest for rank in gloo if case in rank}) == 1


def test_a_store_is_restored_at_another_gang_size_over_gloo(gloo):
    assert max(rank["moved"] for rank in gloo) <= 1e-12


def test_the_bytes_sent_over_gloo_are_those_predicted(gloo):
    assert sum(rank["traffic"][0] for rank in gloo) == gloo[0]["traffic"][1] > 0


def test_deepspeeds_ulysses_agrees_where_it_can_run(gloo):
    assert max(rank["second opinion"] for rank in gloo) <= 1e-12


@GANGS
def test_a_store_is_restored_at_another_gang_size(degrees):
    rank_acts.by_one_rank()  # once, and not by each thread
    assert max(run_threads(rank_acts.moved, degrees)) <= 1e-12


@GANGS
def test_an_aborted_chunk_leaves_the_shared_store_bit_identical(degrees):
    assert all(run_threads(rank_acts.aborted, degrees))


@GANGS
def test_all_ranks_refuse_a_chunk_that_does_not_fit(degrees):
    messages = set(run_threads(rank_acts.refused, degrees))
    assert len(messages) == 1
    assert "chunk 0 has 20 video tokens" in messages.pop()


@GANGS
def test_sites_of_all_kinds_are_exact(degrees):
    rank_acts.sites_of_one_rank(None)
    for differences in run_threads(rank_acts.sites, degrees):
        assert len(differences) == 7
        assert max(differences.values()) <= 1e-12, differences


@GANGS
def test_the_bytes_sent_are_those_predicted(degrees):
    pairs = run_threads(rank_acts.traffic, degrees)
    assert sum(sent for sent, _ in pairs) == pairs[0][1] > 0


def test_text_and_sound_keys_travel_nowhere():
    text = SiteTraffic(4, 8, {"video": Grid(3, 9)}, {"text": Grid(1, 5)}, 4, sharded=("video",))
    assert text.sent_bytes(Degrees(2, 2)) == 0


def test_even_ulysses_sends_each_token_once_out_and_once_back():
    tokens = {"video": Grid(3, 8)}
    sent = SiteTraffic(4, 8, tokens, tokens, 4, sharded=("video",)).sent_bytes(Degrees(ulysses=2))
    assert sent == 4 * 24 * 4 * 8 * 4 // 2


@pytest.mark.parametrize("total", [0, 1, 3, 27])
@pytest.mark.parametrize("degrees", [Degrees(2, 2), Degrees(3, 2), Degrees(1, 4)])
def test_the_ranks_columns_tile_every_frame_in_their_order(degrees, total):
    columns = [list(degrees.columns(degrees.place(rank), total)) for rank in range(degrees.ranks)]
    assert list(chain.from_iterable(columns)) == list(range(total))
    assert max(map(len, columns)) - min(map(len, columns)) <= 1


def test_the_largest_share_is_predicted():
    for total in range(20):
        for count in range(1, 6):
            assert max(len(Share(index, count).of(total)) for index in range(count)) == Share(0, count).largest(total)


def test_ulysses_is_the_innermost_axis_of_the_mesh():
    degrees = Degrees(ulysses=2, ring=2, cfg=2)
    assert degrees.place(3) == Place(cfg=0, ring=1, ulysses=1)
    assert [degrees.rank(degrees.place(rank)) for rank in range(8)] == list(range(8))


@pytest.mark.parametrize("wrong", [{"ulysses": 0}, {"ring": -1}, {"cfg": 3}])
def test_impossible_degrees_are_refused(wrong):
    with pytest.raises(SpecError, match=f"the {next(iter(wrong))} degree is {next(iter(wrong.values()))}"):
        Degrees(**wrong)


class NoPeers:
    index, size, sent_bytes = 0, 2, 0


def test_more_ranks_than_guidance_passes_are_refused():
    parallel = ContextParallel(Degrees(cfg=2), Place(0, 0, 0), lambda _: NoPeers())
    with pytest.raises(SpecError, match="2 ranks cannot share 1 guidance pass"):
        parallel.branches(["guided"])
