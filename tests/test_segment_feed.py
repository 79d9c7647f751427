"""Finished chunks, passed on while a film is rendered."""

import pytest

from longtake.pipeline import film
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.journal import segment_to_bytes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.segment_feed import SegmentFeed
from tests.tiny_take import take_in


@pytest.fixture
def take(tmp_path):
    return take_in(Store(str(tmp_path)))


def test_each_segment_comes_once_in_order_and_before_the_film_is_finished(take):
    received = []
    film.render(take, SegmentFeed(take, lambda segment: received.append((segment, take.store.exists("film.mp4")))))
    chunks = take.plan.chunks
    assert [segment.span for segment, _ in received] == list(chunks)
    assert not any(finished for _, finished in received)
    expected = [segment_to_bytes(take.journal.segment(chunk)) for chunk in chunks]
    assert [segment_to_bytes(segment) for segment, _ in received] == expected


def test_a_film_that_was_finished_before_is_passed_on_too(take):
    film.render(take)
    received = []
    film.render(take, SegmentFeed(take, received.append))
    assert [segment.span for segment in received] == list(take.plan.chunks)


def test_events_that_are_lost_or_repeated_change_nothing(take):
    film.render(take)
    received = []
    feed = SegmentFeed(take, lambda segment: received.append(segment.span.index))
    for index in (1, 0, 1, 2):
        feed.event("publish.chunk", chunk=index)
    assert received == [0, 1, 2]
    feed.event("film.done")
    assert received == list(range(len(take.plan.chunks)))


def test_a_segment_that_is_damaged_after_it_was_published_is_reported(take):
    film.render(take)
    take.journal.forget(0)
    with pytest.raises(JournalError, match="the segment of chunk 0 was damaged"):
        SegmentFeed(take, lambda _: None).event("publish.chunk", chunk=0)
