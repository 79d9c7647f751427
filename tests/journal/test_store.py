import threading
from itertools import count
from time import monotonic
from uuid import uuid4

import pytest

from pipeline.errors import SpecError
from pipeline.journal.store import Store


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
