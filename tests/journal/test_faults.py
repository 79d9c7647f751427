import errno
from pathlib import Path

import pytest

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal import store as store_module
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import sole_writer
from tests.tiny_take import Recorder, render


@pytest.fixture(scope="module")
def undisturbed():
    store = Store("memory://undisturbed-faults")
    render(store)
    return store.get("film.mp4")


def test_a_disk_that_is_full_half_way_leaves_a_whole_prefix_and_the_render_goes_on(tmp_path, monkeypatch, undisturbed):
    store, before, left = Store(str(tmp_path)), Recorder(), [200_000]
    write = store_module._write_local

    def full(path, fill, durable):
        def fill_until_full(unfinished):
            fill(unfinished)
            left[0] -= Path(unfinished).stat().st_size
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        write(path, fill_until_full, durable)

    with monkeypatch.context() as disk:
        disk.setattr(store_module, "_write_local", full)
        with pytest.raises(OSError, match=r"could not be put: .*No space left on device") as failed:
            render(store, before)
    assert failed.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(failed.value)
    assert not store.exists("film.mp4")
    assert not [name for name in store.list() if name.endswith(".unfinished")]
    after = Recorder()
    render(store, after)
    assert before.acted("encode"), "it was full too early to see anything"
    assert not set(before.acted("encode")) & set(after.acted("encode"))
    assert store.get("film.mp4") == undisturbed


@pytest.mark.parametrize("number", [1, 5, 12])
def test_a_put_that_raises_costs_at_most_its_chunk(tmp_path, monkeypatch, undisturbed, number):
    store, before, puts = Store(str(tmp_path)), Recorder(), []
    put = Store._put

    def breaks(self, name, *rest):
        puts.append(name)
        if len(puts) == number:
            raise OSError(errno.EIO, f"{name} could not be put")
        put(self, name, *rest)

    with monkeypatch.context() as fault:
        fault.setattr(Store, "_put", breaks)
        with pytest.raises(OSError, match=puts[-1] if puts else "could not be put"):
            render(store, before)
    after = Recorder()
    render(store, after)
    for act in ("denoise", "encode"):
        assert not set(before.acted(act)) & set(after.acted(act))
    assert store.get("film.mp4") == undisturbed


def test_a_store_that_truncates_silently_is_found_out_and_the_chunk_made_anew(tmp_path, monkeypatch, undisturbed):
    store, put = Store(str(tmp_path)), Store.put

    def lies(self, name, data, **options):
        put(self, name, data[:-9] if name.startswith("journal/segments/00002-") else data, **options)

    with monkeypatch.context() as lie:
        lie.setattr(Store, "put", lies)
        render(store)
    after = Recorder()
    render(store, after)
    assert after.acted("denoise") == []
    assert after.acted("encode") == [2]
    assert store.get("film.mp4") == undisturbed


def test_a_second_driver_is_refused_and_changes_nothing(tmp_path):
    store = Store(str(tmp_path))
    with sole_writer(store):
        before = store.list()
        with pytest.raises(JournalError, match="is being rendered by process"):
            render(Store(str(tmp_path)))
        assert store.list() == before
