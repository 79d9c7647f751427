"""Renders into S3, by moto on loopback behind a proxy that fails."""

import threading
from itertools import count
from random import Random

import fsspec
import pytest

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.journal import ChunkManifest
from longtake.pipeline.journal.lease import Lease
from longtake.pipeline.journal.manifests import read_manifest
from longtake.pipeline.journal.store import Store
from tests.journal.faulty_s3 import FAULTS, FaultyS3
from tests.tiny_take import Recorder, render

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server():
    with FaultyS3() as server:
        yield server


@pytest.fixture
def bucket(server, monkeypatch, request):
    """The URL of an empty bucket on a server that works, until its plan is changed."""
    server.plan, server.faults = (lambda *_: ""), []
    config = {
        "key": "test",
        "secret": "test",
        "endpoint_url": server.url,
        "config_kwargs": {"read_timeout": 2, "connect_timeout": 2, "retries": {"max_attempts": 1}},
    }
    monkeypatch.setitem(fsspec.config.conf, "s3", config)
    name = f"bucket-{abs(hash(request.node.name))}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    yield f"s3://{name}"
    server.plan = lambda *_: ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("local")))
    render(store)
    return {name: store.get(name) for name in published(store)}


def published(store):
    return [name for name in store.list() if name.startswith("live/") or name == "film.mp4"]


def named_by(playlist):
    """The files that a playlist names."""
    lines = playlist.decode().splitlines()
    uris = [line.split('URI="')[1].split('"')[0] for line in lines if 'URI="' in line]
    return {f"live/{uri}" for uri in uris + [line for line in lines if line and not line.startswith("#")]}


def assert_nothing_is_half_there(store):
    found = store.list()
    for name in found:
        if name.endswith(".m3u8"):
            assert named_by(store.get(name)) <= found.keys(), f"{name} names what is not there"
        if name.startswith(("journal/latents/", "journal/segments/")) and name.endswith(".json"):
            manifest = read_manifest(store, name, ChunkManifest)
            assert found[manifest.data] == manifest.bytes


def seeded(seed, rate, faults=FAULTS):
    random, lock = Random(seed), threading.Lock()

    def plan(_method, _path):
        with lock:
            return random.choice(faults) if random.random() < rate else ""

    return plan


def first_put_unanswered():
    puts = count()
    return lambda method, _path: "lost-answer" if method == "PUT" and next(puts) == 0 else ""


def test_a_film_rendered_under_faults_is_the_local_one_bit_for_bit(server, bucket, undisturbed):
    store = Store(f"{bucket}/take")
    server.plan = seeded(3, 0.08)
    render(store)
    server.plan = lambda *_: ""
    assert {name: store.get(name) for name in published(store)} == undisturbed
    assert len(set(server.faults)) >= 4, server.faults
    assert_nothing_is_half_there(store)


def test_after_an_outage_the_render_goes_on(server, bucket, undisturbed):
    store, before, after, requests = Store(f"{bucket}/take"), Recorder(), Recorder(), count()
    server.plan = lambda *_: "500" if next(requests) > 60 else ""
    with pytest.raises(OSError, match=r"/take/.* could not be"):
        render(store, before)
    server.plan = lambda *_: ""
    assert_nothing_is_half_there(store)
    assert not store.exists("film.mp4")
    (card,) = [name for name in store.list("journal") if "writer" in name]
    store.delete(card)  # in place of waiting until its lease has run out
    render(store, after)
    assert before.acted("encode")
    for act in ("denoise", "encode"):
        assert not set(before.acted(act)) & set(after.acted(act))
    assert {name: store.get(name) for name in published(store)} == undisturbed
    assert_nothing_is_half_there(store)


def test_of_two_drivers_who_race_for_a_root_exactly_one_wins_though_answers_are_lost(server, bucket):
    for attempt in range(3):
        url, start, won, refused = f"{bucket}/take-{attempt}", threading.Barrier(2), [], []
        server.plan = first_put_unanswered()

        def race(url=url, start=start, won=won, refused=refused):
            lease = Lease(Store(url))
            start.wait()
            try:
                won.append(lease.__enter__())
            except JournalError:
                refused.append(lease)

        drivers = [threading.Thread(target=race) for _ in range(2)]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        assert (len(won), len(refused)) == (1, 1)
        won[0].__exit__(None, None, None)


def test_a_name_that_is_taken_is_not_put(bucket):
    store = Store(f"{bucket}/take")
    assert store.can_put_if_absent
    assert store.put_if_absent("journal/a", b"one")
    assert not store.put_if_absent("journal/a", b"two")
    assert store.get("journal/a") == b"one"
    assert store.list() == {"journal/a": 3}
    store.delete("journal/a")
    assert store.list() == {}
