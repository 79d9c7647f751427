from contextlib import suppress

import pytest

from longtake.jobs.cancel import command as cancel_command
from longtake.jobs.clean import command as clean_command
from longtake.pipeline.errors import JournalError, SpecError
from longtake.pipeline.journal.cancel import cancelled, request_cancel
from longtake.pipeline.journal.clean import clean
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import owner_of, sole_writer
from tests.tiny_take import KilledError, Recorder, render

LITTER = {
    "journal/latents/00001-0123456789abcdef.safetensors": 5,
    "journal/segments/00099-0123456789abcdef.safetensors": 6,
    "journal/scratch/longtake-x/film.mp4": 7,
    "live/.video-00001.m4s.0123456789abcdef.unfinished": 8,
    ".film.mp4.0123456789abcdef.unfinished": 9,
    "journal/probe-0123456789abcdef": 1,
    ".doctor-123": 2,
    ".longtake-x1/file": 3,
}
OTHERS = ("notes.txt", "journal/latents/mine.safetensors", "journal/.unfinished", "live/old.m4s")


@pytest.fixture(params=["file", "memory"])
def take(request, tmp_path):
    store = Store(str(tmp_path) if request.param == "file" else f"memory://clean{tmp_path}")
    with suppress(KilledError):
        render(store, Recorder(("publish.chunk", 1)))
    clean(store)  # what a kill leaves
    for name in OTHERS:
        store.put(name, b"?")
    return store


def test_cleaning_removes_what_no_manifest_names_and_nothing_else(take, capsys):
    kept = take.list()
    for name, size in LITTER.items():
        take.put(name, bytes(size))
    littered = take.list()
    assert LITTER.items() <= clean(take, dry_run=True).items()
    clean_command(take.url, dry_run=True)
    assert "would be deleted" in capsys.readouterr().out
    assert take.list() == littered
    assert clean(take).items() >= LITTER.items()
    assert {name for name in take.list() if "writer" not in name} == {name for name in kept if "writer" not in name}
    recorder = Recorder()
    render(take, recorder)
    assert recorder.acted("encode") == [2, 3, 4]


def test_cleaning_leaves_a_render_in_a_folder_below_alone(take):
    inner = {f"second/{name}": size for name, size in LITTER.items()}
    for name, size in inner.items():
        take.put(name, bytes(size))
    assert not inner.keys() & clean(take).keys()
    assert inner.items() <= take.list().items()


def test_cleaning_is_refused_while_somebody_writes_and_where_no_take_is(take, tmp_path):
    with sole_writer(take):
        for dry_run in (False, True):
            with pytest.raises(JournalError, match="is being rendered by"):
                clean(Store(take.url), dry_run=dry_run)
    with pytest.raises(SpecError, match="holds no take"):
        clean(Store(f"{tmp_path}/elsewhere"))


def test_a_request_to_stop_reaches_the_owner_it_was_meant_for_only(take, capsys):
    assert request_cancel(take) is None
    cancel_command(take.url, wait_s=0)
    assert "No render owns" in capsys.readouterr().out
    with sole_writer(take) as owner:
        assert not cancelled(take)
        assert request_cancel(Store(take.url)) == owner_of(take)
        assert request_cancel(take).token == owner.token
        assert cancelled(take)
        with pytest.raises(JournalError, match="has not released"):
            cancel_command(take.url, wait_s=0)
    assert not cancelled(take)
    with sole_writer(take):
        assert not cancelled(take), "an old request"
        take.put("journal/cancel.json", b"garbage")
        assert not cancelled(take)
