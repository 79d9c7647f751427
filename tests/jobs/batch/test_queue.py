from collections import Counter

from hypothesis import given, strategies as st

from longtake.jobs.batch.manifest import TakeSpec
from longtake.jobs.batch.queue import TakeQueue
from longtake.pipeline.spec import parse_storyboard
from tests.jobs.batch.sessions import STORYBOARD

FILM = parse_storyboard(STORYBOARD)
KINDS = st.lists(st.tuples(st.integers(-2, 2), st.sampled_from("abc"), st.sampled_from([None, 1, 2])), max_size=30)


def takes_of(kinds):
    return [
        TakeSpec(str(number), FILM, f"/{number}", priority, project, (), ranks)
        for number, (priority, project, ranks) in enumerate(kinds)
    ]


def drained(queue, ranks=None):
    taken = []
    while (take := queue.take(0.0, ranks)) is not None:
        taken.append(take)
        ranks = take.ranks
    return taken


@given(KINDS)
def test_every_take_comes_once_and_higher_priorities_come_first(kinds):
    takes = takes_of(kinds)
    taken = drained(TakeQueue(takes))
    assert Counter(taken_.id for taken_ in taken) == Counter(take.id for take in takes)
    assert [take.priority for take in taken] == sorted((take.priority for take in takes), reverse=True)


@given(KINDS)
def test_among_equal_priorities_projects_are_served_round_robin(kinds):
    takes = takes_of(kinds)
    taken = drained(TakeQueue(takes))
    for priority in {take.priority for take in takes}:
        waiting = Counter(take.project for take in takes if take.priority == priority)
        served = Counter()
        for take in [take for take in taken if take.priority == priority]:
            others = [served[project] for project, left in waiting.items() if left]
            assert served[take.project] == min(others), "a project was served before one that had waited longer"
            served[take.project] += 1
            waiting[take.project] -= 1


@given(KINDS)
def test_within_a_project_and_a_size_takes_keep_their_order(kinds):
    taken = drained(TakeQueue(takes_of(kinds)))
    for kind in set(kinds):
        numbers = [int(take.id) for take in taken if (take.priority, take.project, take.ranks) == kind]
        assert numbers == sorted(numbers)


def test_a_gang_gets_takes_that_its_actors_suit_where_that_is_fair():
    queue = TakeQueue(takes_of([(0, "a", 1), (0, "a", 2), (0, "a", 1), (0, "b", 2), (1, "a", 2)]))
    assert [take.id for take in drained(queue, ranks=2)] == ["4", "3", "1", "0", "2"]


def test_a_take_that_was_put_back_waits_its_time_and_then_comes_first_in_its_project():
    queue = TakeQueue(takes_of([(0, "a", 1)] * 3))
    first = queue.take(0.0)
    queue.put_back(first, ready_at=5.0)
    assert queue.take(4.9).id == "1"
    assert queue.take(5.0) is first
    assert queue.take(5.0).id == "2"
    assert len(queue) == 0
    assert queue.take(9.0) is None
