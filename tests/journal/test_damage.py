import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from longtake.pipeline.journal.store import Store
from longtake.pipeline.spec import parse_storyboard
from tests.tiny_take import KilledError, Recorder, render, take_in

DAMAGES = {
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b'{"key": 7, "data": "../../etc", "parts": []}'),
    "deleted": Path.unlink,
}
SHORT = parse_storyboard(
    """
model: tiny
seed: 11
sampling: {steps: 1, guidance: 1}
video: {width: 16, height: 16}
scenes:
  - {prompt: a red circle bounces fast, duration: 1.6s}
  - {prompt: a blue square rests, duration: 0.5s}
""",
    (),
)
"""Three chunks in two scenes: every kind of file of a take, and few of each."""


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"?"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed take."""
    folder = tmp_path_factory.mktemp("whole") / "take"
    render(Store(str(folder)))
    return folder


@pytest.fixture(scope="module")
def undisturbed(whole):
    return (whole / "film.mp4").read_bytes()


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A take that was killed after its third chunk of five."""
    folder = tmp_path_factory.mktemp("half") / "take"
    with pytest.raises(KilledError):
        render(Store(str(folder)), Recorder(("publish.chunk", 2)))
    return folder


@pytest.fixture(scope="module")
def short():
    store = Store("memory://short-damage")
    render(store, storyboard=SHORT)
    return store.get("film.mp4")


@pytest.fixture(scope="module")
def short_half(tmp_path_factory):
    """The short take, killed after its second chunk of three."""
    folder = tmp_path_factory.mktemp("short") / "take"
    with pytest.raises(KilledError):
        render(Store(str(folder)), Recorder(("publish.chunk", 1)), SHORT)
    return folder


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def chunk_of(path):
    """The chunk that a file of the journal belongs to, as far as it is of one."""
    return {int(path.name[:5])} if path.name[:5].isdecimal() else set()


def goes_on(half, folder, path, damage, undisturbed):
    shutil.copytree(half, folder)
    DAMAGES[damage](folder / path)
    recorder, store = Recorder(), Store(str(folder))
    render(store, recorder, SHORT)
    assert store.get("film.mp4") == undisturbed, f"{path} {damage}"
    for act in ("denoise", "encode"):
        assert set(recorder.acted(act)) - {2} <= chunk_of(path), f"{act} after {path} was {damage}"
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_take_with_any_file_damaged_in_any_way_goes_on_bit_for_bit(short_half, short, tmp_path, damage):
    paths = files(short_half)
    assert len(paths) > 15
    for path in paths:
        goes_on(short_half, tmp_path / "take", path, damage, short)


@pytest.mark.parametrize("lost", [{2}, {0, 1, 2}])
def test_lost_latents_that_later_chunks_build_on_are_all_that_is_made_anew(half, undisturbed, tmp_path, lost):
    folder = tmp_path / "take"
    shutil.copytree(half, folder)
    for index in lost:
        (data,) = folder.glob(f"journal/latents/{index:05d}-*")
        data.unlink()
    recorder, store = Recorder(), Store(str(folder))
    render(store, recorder)
    assert recorder.acted("denoise") == recorder.acted("encode") == sorted({3, 4} | lost)
    assert [fields["chunk"] for name, fields in recorder.events if name == "journal.mend"] == sorted(lost, reverse=True)
    assert store.get("film.mp4") == undisturbed


def test_latents_that_nobody_needs_are_left_alone(tmp_path, whole, undisturbed):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    store, recorder = Store(str(tmp_path)), Recorder()
    shutil.rmtree(tmp_path / "journal" / "latents")
    render(store, recorder)
    assert recorder.acted("denoise") == recorder.acted("encode") == []
    assert store.get("film.mp4") == undisturbed


def test_mending_that_was_killed_is_taken_up(half, undisturbed, tmp_path):
    folder = tmp_path / "take"
    shutil.copytree(half, folder)
    for data in folder.glob("journal/latents/0000[12]-*"):
        data.write_bytes(b"")
    store = Store(str(folder))
    with pytest.raises(KilledError):
        take_in(store).repair(Recorder(("journal.mend", 1)))
    with pytest.raises(KilledError):
        render(store, Recorder(("denoise.chunk", 1)))
    render(store)
    assert store.get("film.mp4") == undisturbed


def test_a_fresh_take_is_looked_over_in_a_moment(tmp_path):
    take = take_in(Store(str(tmp_path)))
    looked = []
    journal = take.journal
    journal.holds = lambda kind, index: looked.append((kind, index))
    replace(take, journal=journal).repair(Recorder())
    assert looked == [("segments", 0), ("latents", 0)]
