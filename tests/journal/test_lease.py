import subprocess
import threading
from contextlib import suppress
from random import random
from time import sleep
from typing import ClassVar
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal import lease as lease_module, owner as owner_module, store as store_module
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
def test_an_owner_on_another_machine_that_renews_is_alive_and_one_that_does_not_is_dead(store, monkeypatch, caplog):
    monkeypatch.setattr(owner_module, "_machine", lambda: "another")
    with sole_writer(store) as owner:
        monkeypatch.setattr(owner_module, "_machine", lambda: "this")
        with pytest.raises(JournalError, match="being rendered by"), sole_writer(Store(store.url)):
            pass
        assert owner_of(store).token == owner.token
    put_card(store, 2, host="gone", pid=1, machine="another", renewed=lease_module.time())
    caplog.clear()
    with sole_writer(store):
        assert latest(store).number == 3
    assert "process 1 on gone, since ?; waiting up to 2 s to see whether it is alive" in caplog.text


def test_a_killed_owner_on_this_machine_is_succeeded_at_once(store):
    with subprocess.Popen(["true"]) as child:
        child.wait()
    card = OwnerCard.of_this_process()
    for number, changed in enumerate(({"pid": child.pid}, {"started": "2000-01-01T00:00:00+00:00"}), 1):
        dead = card.model_copy(update=changed)  # gone; or its number was given to a later process
        put_card(store, number * 10, **dead.model_dump())
        assert owner_of(store) is None
        started = lease_module.monotonic()
        with sole_writer(store):
            assert lease_module.monotonic() - started < 1


def test_a_card_that_the_store_lists_late_counts(store, monkeypatch):
    for number in (1, 2, 3):
        put_card(store, number, released=number < 3, host="late")
    listed = Store.list
    monkeypatch.setattr(Store, "list", lambda *a: {n: s for n, s in listed(*a).items() if "00003" not in n})
    assert latest(store).number == 3


class PlainFileSystem(MemoryFileSystem):
    """An object store that knows no conditional put, and takes its time."""

    protocol = "plain"
    store: ClassVar[dict] = {}

    def pipe_file(self, path, value, **_):
        sleep(0.02 * random())
        super().pipe_file(path, value)


@pytest.fixture
def plain(monkeypatch):
    fsspec.register_implementation("plain", PlainFileSystem, clobber=True)
    monkeypatch.setattr(store_module, "SETTLE_S", 0.2)
    return Store(f"plain://{uuid4()}")


@pytest.mark.usefixtures("short")
def test_without_conditional_puts_exactly_one_owner_wins_and_one_that_was_overwritten_stops(plain):
    assert not plain.can_put_if_absent
    start, won = threading.Barrier(8), []

    def race():
        mine = Store(plain.url)
        start.wait()
        with suppress(JournalError), sole_writer(mine) as card:
            won.append(card)
            sleep(0.5)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    with sole_writer(plain):
        number = latest(plain).number
        put_card(Store(plain.url), number, host="slow", token="another")  # its put took longer than expected
        sleep(1)
        with pytest.raises(JournalError, match="lost its lease"):
            plain.put("film.mp4", b"")


@pytest.mark.parametrize(
    ("protocol", "package", "too_old", "exact"),
    [
        (("gs", "gcs"), "gcsfs", "2024.12.0", "2025.2.0"),
        (("abfs", "az", "abfss"), "adlfs", "2024.7.0", "2024.12.0"),
        (("s3", "s3a"), "s3fs", "2024.10.0", "2025.3.2"),
    ],
)
def test_puts_are_exact_from_the_release_that_asks_the_store_for_it(monkeypatch, protocol, package, too_old, exact):
    created = []

    class Served(PlainFileSystem):
        def pipe_file(self, path, value, **options):
            created.append(options)
            super().pipe_file(path, value)

    Served.protocol = protocol
    fsspec.register_implementation("served", Served, clobber=True)
    monkeypatch.setattr(store_module, "SETTLE_S", 0)
    monkeypatch.setattr(store_module, "version", lambda name: {package: too_old}[name])
    assert not Store("served://bucket/take").can_put_if_absent
    monkeypatch.setattr(store_module, "version", lambda name: {package: exact}[name])
    store = Store(f"served://bucket/{package}")
    assert store.can_put_if_absent
    assert store.put_if_absent("name", b"mine")
    assert created == [{"mode": "create"}]


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
