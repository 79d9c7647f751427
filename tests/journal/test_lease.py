import threading
from time import sleep
from uuid import uuid4

import pytest

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal import lease as lease_module
from longtake.pipeline.journal.lease import Lease, latest
from longtake.pipeline.journal.owner import OwnerCard
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import owner_of, sole_writer


@pytest.fixture
def store():
    return Store(f"memory://{uuid4()}")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(lease_module, "LEASE_S", 2.0)


def put_card(store, number, **fields):
    store.put(f"journal/writer-{number:05d}.json", OwnerCard(**fields).model_dump_json().encode())


def test_a_second_owner_is_refused_until_the_first_has_let_go(store):
    with sole_writer(store) as first:
        assert owner_of(store).token == first.token
        with pytest.raises(JournalError, match=f"being rendered by process {first.pid} on"), sole_writer(store):
            pass
    assert owner_of(store) is None
    with sole_writer(store) as second:
        assert second.token != first.token
    assert latest(store).number == 2


def test_of_many_who_race_for_a_root_exactly_one_wins(store):
    put_card(store, 1, released=True)
    start, won, refused = threading.Barrier(8), [], []

    def race():
        lease = Lease(Store(store.url))
        start.wait()
        try:
            won.append(lease.__enter__())
        except JournalError:
            refused.append(lease)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].__exit__(None, None, None)


@pytest.mark.usefixtures("short")
def test_an_owner_renews(store):
    with sole_writer(store) as owner:
        sleep(1.7)
        now = owner_of(store)
        assert now.renewals >= 2
        assert now.token == owner.token
        store.put("a", b"still mine")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("offset_s", [-3600, 3600], ids=lambda s: f"{s:+} s")
def test_a_living_owner_whose_clock_is_wrong_keeps_its_root(store, monkeypatch, offset_s):
    right = lease_module.time
    with sole_writer(store) as owner:
        monkeypatch.setattr(lease_module, "time", lambda: right() - offset_s)  # the successor's clock
        with pytest.raises(JournalError, match="being rendered by"), sole_writer(Store(store.url)):
            pass
        assert owner_of(store).token == owner.token


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("renewed", [0.0, 1e12], ids=["long ago", "in the future"])
def test_a_dead_owners_root_is_taken_over_after_a_whole_lease_was_watched(store, renewed):
    put_card(store, 7, host="gone", pid=1, renewed=renewed)
    started = lease_module.monotonic()
    with sole_writer(store):
        assert lease_module.monotonic() - started > 1.9
        assert latest(store).number == 8


@pytest.mark.usefixtures("short")
def test_a_damaged_card_is_watched_like_a_dead_owners(store):
    store.put("journal/writer-00001.json", b"{garbage")
    with sole_writer(store):
        assert latest(store).number == 2


@pytest.mark.usefixtures("short")
def test_an_owner_that_sees_a_successor_writes_nothing_more(store):
    with sole_writer(store):
        put_card(Store(store.url), 2, host="other", renewed=0)
        sleep(1)
        with pytest.raises(JournalError, match="lost its lease"):
            store.put("film.mp4", b"")
    assert not store.exists("film.mp4")
    assert owner_of(store).host == "other"


@pytest.mark.usefixtures("short")
def test_an_owner_that_cannot_renew_for_a_whole_lease_writes_nothing_more(store, monkeypatch):
    def down(*_, **__):
        raise OSError("out of reach")

    with sole_writer(store):
        with monkeypatch.context() as outage:
            outage.setattr(type(store._fs), "exists", down)
            sleep(2.5)
        with pytest.raises(JournalError, match="lost its lease"):
            store.put("film.mp4", b"")
