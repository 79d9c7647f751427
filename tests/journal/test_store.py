import errno
import fcntl
import os
import stat
import threading
from itertools import count
from time import monotonic
from uuid import uuid4

import pytest

from longtake.pipeline.errors import JournalError, SpecError
from longtake.pipeline.journal.store import Store, canonical, resolved
from longtake.pipeline.journal.writer import sole_writer


@pytest.fixture(params=["path", "file", "memory"])
def store(request, tmp_path):
    return Store(
        {"path": f"{tmp_path}/root", "file": f"file://{tmp_path}/root", "memory": f"memory://{uuid4()}"}[request.param]
    )


def names(store):
    return sorted(path.removeprefix(store._root + "/") for path in store._fs.find(store._root))


def test_what_was_put_last_is_what_is_there(store, tmp_path):
    local = tmp_path / "local"
    local.write_bytes(b"three")
    store.put("a/b.bin", b"one")
    store.put("a/b.bin", b"two")
    store.put_file("a/c.bin", local)
    assert (store.get("a/b.bin"), store.get("a/c.bin")) == (b"two", b"three")
    assert store.exists("a/b.bin")
    assert not store.exists("a/d.bin")
    assert names(store) == ["a/b.bin", "a/c.bin"]


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/./b", "a\\b", "a/", "s3://b/c", "."]
)
def test_a_name_that_leaves_the_root_is_refused_everywhere(store, tmp_path, name):
    acts = (
        lambda: store.put(name, b""),
        lambda: store.put_file(name, tmp_path),
        lambda: store.get(name),
        lambda: store.exists(name),
        lambda: store.url_of(name),
    )
    for act in acts:
        with pytest.raises(SpecError, match="no name inside an output root"):
            act()


def test_a_put_that_fails_leaves_the_old_bytes_and_no_litter(store, tmp_path):
    store.put("film", b"old")
    with pytest.raises(FileNotFoundError):
        store.put_file("film", tmp_path / "missing")
    with pytest.raises(TypeError):
        store.put("film", 7)
    assert store.get("film") == b"old"
    assert names(store) == ["film"]


def test_a_name_that_was_never_put_is_not_found(store):
    with pytest.raises(FileNotFoundError):
        store.get("nothing")


def test_a_reader_sees_the_old_bytes_or_the_new_ones_and_nothing_between(store, tmp_path):
    contents = [bytes([letter]) * 3_000_000 for letter in b"ab"]
    local = tmp_path / "local"
    local.write_bytes(contents[1])
    store.put("film", contents[0])
    stop = threading.Event()

    def write():
        while not stop.is_set():
            store.put("film", contents[0])
            store.put_file("film", local)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen, deadline_s = set(), monotonic() + 20
        for reads in count():
            seen.add(store.get("film"))
            if (reads >= 60 and len(seen) > 1) or monotonic() > deadline_s:
                break
    finally:
        stop.set()
        writer.join()
    assert seen == set(contents)


def test_a_url_names_a_file_that_another_store_finds(store):
    store.put("live/a.bin", b"here")
    root, _, name = store.url_of("live/a.bin").rpartition("/")
    assert Store(root).get(name) == b"here"


def test_of_all_who_put_a_name_that_is_absent_exactly_one_does(store):
    start, done = threading.Barrier(8), []

    def put(letter):
        start.wait()
        done.append((store.put_if_absent("journal/owner", letter), letter))

    threads = [threading.Thread(target=put, args=(bytes([65 + i]),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [letter for won, letter in done if won] == [store.get("journal/owner")]
    assert names(store) == ["journal/owner"]
    assert store.put_if_absent("journal/owner", store.get("journal/owner")), "an answer was lost: it is ours"


def test_a_listing_names_everything_below_a_folder_with_its_size(store):
    assert store.list() == store.list("journal") == {}
    for name, size in (("film.mp4", 5), ("journal/b/c", 3), ("journal/a", 0), ("journals", 1)):
        store.put(name, bytes(size))
    assert store.list("journal") == {"journal/a": 0, "journal/b/c": 3}
    store.delete("journal/a")
    store.delete("journal/a")
    assert store.list() == {"film.mp4": 5, "journal/b/c": 3, "journals": 1}


def test_a_guarded_store_puts_nothing_that_is_forbidden(store, tmp_path):
    def forbid():
        raise InterruptedError

    with store.guarded(forbid):
        for put in (store.put, store.put_if_absent):
            with pytest.raises(OSError, match="could not be put"):
                put("film", b"")
        with pytest.raises(OSError, match="could not be put"):
            store.put_file("film", tmp_path)
    store.put("film", b"")
    with store.guarded(forbid), pytest.raises(OSError, match="could not be deleted"):
        store.delete("film")
    assert store.exists("film")


def test_a_fault_names_its_object(store, monkeypatch):
    class LibraryError(Exception):
        pass

    def broken(*_, **__):
        raise LibraryError("connection reset")

    monkeypatch.setattr(type(store._fs), "cat_file", broken)
    with pytest.raises(OSError, match="live/a could not be read: connection reset"):
        store.get("live/a")


PLACES = {
    "/tmp/a/b": (
        "/tmp//a/b/",
        "/tmp/./a/b",
        "/tmp/c/../a/b",
        "file:///tmp/a/b",
        "file:/tmp/a//b",
        "FILE://localhost/tmp/a/b",
    ),
    "s3://bucket/film": (
        "s3://bucket//film/",
        "s3a://bucket/./film",
        "S3://bucket/x/../film",
        "s3://../bucket/../film",
    ),
    "gs://bucket/film": ("gcs://bucket/film",),
    "memory://a/b": ("memory:///a//b", "memory://a/b/"),
    "https://host/a//b?next=/../c": (),
    "simplecache::s3://bucket//film": (),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_has_one_name(place):
    assert {canonical(name) for name in (place, *PLACES[place])} == {place}


def test_paths_are_relative_to_the_working_folder_and_to_ones_home_and_links_lead_to_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "deep" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "out")
    assert {canonical(name) for name in ("out", "./out", "out//", "~/out")} == {str(tmp_path / "out")}
    assert canonical("link/../film") == str(tmp_path / "deep" / "film"), "as the operating system reads it"
    assert resolved("link/film") == resolved("file://" + str(tmp_path / "deep/out//film"))
    assert resolved("link/film") != resolved("out/film")


def test_folders_that_cannot_be_synced_and_file_systems_without_locks(tmp_path, monkeypatch):
    def refuses(number, *, folders):
        def call(descriptor, *_):
            if not folders or stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr(os, "fsync", refuses(errno.EINVAL, folders=True))
    place = Store(str(tmp_path))
    place.put("a", b"stored")
    assert place.get("a") == b"stored"
    monkeypatch.setattr(os, "fsync", refuses(errno.EIO, folders=True))
    with pytest.raises(OSError, match="could not be put"):
        place.put("a", b"lost")
    monkeypatch.setattr(fcntl, "flock", lambda *_: refuses(errno.ENOLCK, folders=False)(0))
    with pytest.raises(JournalError, match=f"{tmp_path} is on a file system without locks"), sole_writer(place):
        pass
