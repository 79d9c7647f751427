import sys
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from longtake.pipeline.inspect.sync import lag_s, match, merged

GRID = st.lists(st.integers(0, 40), max_size=4, unique=True)


def rhythm(seconds=120.0, seed=0):
    """Events at random distances of 0.2 to 1 s."""
    times = np.cumsum(np.random.default_rng(seed).uniform(0.2, 1.0, size=int(2 * seconds)))
    return times[times < seconds]


def best_by_trial(events, onsets, tolerance):
    """The largest number of pairs and the smallest sum of offsets for it, by exhaustive search."""
    few, many = sorted((events, onsets), key=len)
    best = (0, 0.0)
    for count in range(1, len(few) + 1):
        for chosen in combinations(few, count):
            for partners in permutations(many, count):
                apart = [abs(a - b) for a, b in zip(chosen, partners, strict=True)]
                if max(apart) <= tolerance:
                    best = max(best, (count, -sum(apart)))
    return best[0], -best[1]


@given(GRID, GRID, st.integers(0, 12))
def test_no_matching_has_more_pairs_or_smaller_offsets(events, onsets, tolerance):
    sync = match(events, onsets, tolerance)
    total = sum(abs(onset - event) for event, onset in sync.pairs)
    assert (len(sync.pairs), total) == pytest.approx(best_by_trial(events, onsets, tolerance))


def test_synchronous_sound_scores_1_and_chance_scores_low():
    events = rhythm()
    sync = match(events, events, duration_s=120)
    assert (sync.f1, sync.offset_s, sync.mad_s, sync.slope_ms_per_min) == (1, 0, 0, 0)
    assert 0.1 < sync.chance_f1 < 0.3


def test_chance_f1_is_not_inflated_by_a_regular_rhythm():
    beats = np.arange(0, 120, 0.5)
    assert 0.05 < match(beats, beats, duration_s=120).chance_f1 < 0.6


def test_late_sound_shows_as_an_offset_above_0_and_early_sound_below():
    events = rhythm()
    assert match(events, events + 0.03).offset_s == pytest.approx(0.03)
    assert match(events, events - 0.03).offset_s == pytest.approx(-0.03)
    assert match(events, events + 0.03).f1 == 1
    assert match(events, events + 0.05, tolerance_s=0.04).f1 < 0.1


def test_drifting_sound_gives_a_slope_although_a_quarter_of_the_onsets_is_noise():
    rng = np.random.default_rng(3)
    events = rhythm(240)
    onsets = events - 0.03 + events * 0.015 / 60
    wild = rng.random(len(events)) < 0.25
    onsets = np.where(wild, events + rng.uniform(-0.06, 0.06, len(events)), onsets)
    assert match(events, onsets).slope_ms_per_min == pytest.approx(15, abs=2)


def test_a_delay_beyond_the_tolerance_is_found_as_a_lag():
    events = rhythm()
    assert lag_s(events, events + 0.21) == pytest.approx(0.21, abs=0.005)
    assert lag_s(events, []) is None


def test_no_events_and_no_onsets_agree():
    assert match([], []).f1 == 1
    assert match([1.0], []).f1 == match([], [1.0]).f1 == 0
    assert match([1.0], []).offset_s is None


def test_two_hits_in_a_corner_count_as_one():
    assert merged([1.0, 1.02, 1.2, 1.04], within_s=0.03).tolist() == [1.0, 1.04, 1.2]


def test_ten_thousand_events_are_matched_without_recursion():
    events = rhythm(6000)
    assert len(events) > sys.getrecursionlimit()
    assert match(events, events + 0.01).f1 == 1
