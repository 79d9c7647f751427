from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from longtake.pipeline.attention.kv_plan import NOTHING_KEPT, KVPlan, PageTable, SiteLayout, StreamLayout, join_runs
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import SpecError

plans = st.builds(KVPlan, st.integers(1, 5), st.integers(0, 3), st.none() | st.integers(1, 20))


def span(index: int, section: int = 0) -> ChunkSpan:
    second = range(index, index + 1)
    return ChunkSpan(
        index, section, 0, section, second, second, second, second, Fraction(index), Fraction(index + 1), False
    )


@given(plans, st.integers(0, 50), st.integers(0, 60))
def test_a_chunk_sees_its_sections_sink_and_window_and_never_the_future(plan, section, age):
    chunk = section + age
    visible = plan.visible(section, chunk)
    assert visible == sorted(set(visible))
    assert all(section <= seen < chunk for seen in visible)
    assert set(visible) >= set(range(max(section, chunk - plan.window), chunk))
    assert len(visible) <= plan.window + plan.sink


@given(plans, st.integers(1, 40))
def test_the_page_table_holds_what_the_plan_makes_visible(plan, num_chunks):
    table = PageTable(plan)
    for index in range(num_chunks):
        assert [page.chunk for page in table.pages] == plan.visible(0, index)
        in_flight = table.page_for(span(index))
        assert in_flight not in [page.number for page in table.pages], "the page in flight overwrites a visible one"
        assert in_flight < plan.num_pages
        table.commit(span(index), {"video": 1})


@given(plans, st.integers(0, 10), st.integers(0, 200))
def test_canonical_points_come_at_every_scene_start_and_every_refresh(plan, scene_start, age):
    chunk = scene_start + age
    last = plan.last_canonical(scene_start, chunk)
    assert plan.is_canonical(scene_start, scene_start)
    assert plan.is_canonical(scene_start, last)
    assert scene_start <= last <= chunk
    assert chunk - last < (plan.refresh_chunks or 8 * plan.window)
    assert not any(plan.is_canonical(scene_start, between) for between in range(last + 1, chunk + 1))


def test_the_sink_moves_to_just_before_the_window():
    table = PageTable(KVPlan(window=2, sink=1))
    shifts = []
    for index in range(6):
        shifts.append(table.sink_shift_s(span(index)))
        table.commit(span(index), {"video": 1})
    assert shifts == [0, 0, 0, 0, 1, 2]


def test_a_full_window_is_one_run_of_slots():
    plan = KVPlan(window=3, sink=1)
    layout = SiteLayout(
        "joint", 1, 1, 8, (StreamLayout("video", 4), StreamLayout("audio", 2), StreamLayout("text", 3, kept=False))
    )
    table = PageTable(plan)
    for index in range(9):
        table.commit(span(index), {"video": 4, "audio": 2})
    in_flight = table.page_for(span(9))
    own = [
        (layout.slot(plan, name, page), layout.slot(plan, name, page) + size)
        for name, page, size in (("video", in_flight, 4), ("audio", in_flight, 2), ("text", 0, 3))
    ]
    assert join_runs([*table.runs(layout, table.pages), *own]) == [(0, layout.num_slots(plan))]


def test_short_pages_leave_holes_between_runs():
    plan = KVPlan(window=2)
    layout = SiteLayout("joint", 1, 1, 8, (StreamLayout("video", 4),))
    table = PageTable(plan)
    table.commit(span(0), {"video": 3})
    table.commit(span(1), {"video": 4})
    assert join_runs(table.runs(layout, table.pages)) == [(0, 3), (4, 8)]


@pytest.mark.parametrize("wrong", [{"window": -1}, {"sink": -1}, {"refresh_chunks": 0}])
def test_an_impossible_plan_is_refused(wrong):
    with pytest.raises(SpecError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        replace(KVPlan(window=1), **wrong)


def test_a_plan_without_a_window_shows_a_chunk_itself_alone_from_every_chunk_on():
    assert [NOTHING_KEPT.visible(0, chunk) for chunk in (0, 1, 9)] == [[], [], []]
    assert NOTHING_KEPT.history(0, 0, 9) == []
    assert NOTHING_KEPT.num_pages == 1
    table = PageTable(NOTHING_KEPT)
    table.commit(span(0), {"video": 4})
    assert not table.pages
