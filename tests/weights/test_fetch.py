"""Models at URLs are downloaded once per node, complete and equal to their source."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import fsspec
import pytest

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights import fetch as fetching
from longtake.pipeline.weights.fetch import fetch
from longtake.pipeline.weights.folder import folder_fingerprint
from longtake.pipeline.weights.node_cache import locked
from longtake.pipeline.weights.options import LoadOptions
from tests.weights.diffusers_folder import FILES, save_folder

_NUMBER = count()


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path / "model")


@pytest.fixture
def url(folder):
    """The URL of the model in fsspec's memory file system."""
    url = f"memory://models-{next(_NUMBER)}/nobody"
    fsspec.filesystem("memory").put(f"{folder}/", url, recursive=True)
    return url


@pytest.fixture
def opened(monkeypatch):
    """The files opened at the source, in order."""
    names, fs = [], fsspec.filesystem("memory")
    before = type(fs).open
    monkeypatch.setattr(type(fs), "open", lambda self, path, *a, **k: names.append(path) or before(self, path, *a, **k))
    return names


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_needed_files_are_fetched_and_only_once(url, folder, tmp_path, opened):
    copy = fetch(url, tmp_path / "cache")
    assert copy.name == "nobody", "films name their model"
    assert files_in(copy) == {name: (folder / name).read_bytes() for name in FILES}
    opened.clear()
    assert fetch(url, tmp_path / "cache") == copy
    assert opened == []


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: old[:-1] + b"\0", lambda _: b""])
def test_a_damaged_copy_is_found_and_fetched_again(url, tmp_path, opened, damage):
    cache = tmp_path / "cache"
    broken = fetch(url, cache) / "tokenizer/spiece.model"
    broken.write_bytes(damage(broken.read_bytes()))
    opened.clear()
    copy = fetch(url, cache)
    assert (copy / "tokenizer/spiece.model").read_bytes() == b"words"
    assert [Path(name).name for name in opened] == ["spiece.model"]


def test_a_folder_listed_by_a_web_server_is_fetched_and_a_missing_one_refused(folder, tmp_path):
    pytest.importorskip("aiohttp")
    handler = partial(QuietHandler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        copy = fetch(f"{url}/model", tmp_path / "cache")
        with pytest.raises(WeightsError, match="nothing"):
            fetch(f"{url}/nothing", tmp_path / "cache")
        server.shutdown()
        thread.join()
    assert files_in(copy) == {name: (folder / name).read_bytes() for name in FILES}


class QuietHandler(SimpleHTTPRequestHandler):
    """A web server that prints nothing."""

    def log_message(self, *_):
        pass


def test_a_removed_file_is_fetched_again(url, tmp_path):
    copy = fetch(url, tmp_path / "cache")
    (copy / "tokenizer/spiece.model").unlink()
    assert (fetch(url, tmp_path / "cache") / "tokenizer/spiece.model").read_bytes() == b"words"


def test_a_changed_source_is_fetched_to_a_new_place(url, tmp_path):
    old = fetch(url, tmp_path / "cache")
    fsspec.filesystem("memory").pipe(f"{url}/tokenizer/spiece.model", b"other")
    new = fetch(url, tmp_path / "cache")
    assert (new / "tokenizer/spiece.model").read_bytes() == b"other"
    assert (old / "tokenizer/spiece.model").read_bytes() == b"words"


def test_a_copy_has_the_fingerprint_of_its_source(url, folder, tmp_path):
    load = LoadOptions(cache=tmp_path / "cache")
    assert folder_fingerprint(fetch(url, load.cache), load) == folder_fingerprint(folder, load)
    other = save_folder(tmp_path / "other", seed=1)
    assert folder_fingerprint(other, load) != folder_fingerprint(folder, load)


def test_checksums_are_cached_so_the_second_start_reads_no_tensors(folder, tmp_path, monkeypatch):
    load = LoadOptions(cache=tmp_path / "cache")
    first = folder_fingerprint(folder, load)
    monkeypatch.setattr(
        "longtake.pipeline.weights.node_cache._digest", lambda file: pytest.fail(f"{file} was read again")
    )
    assert folder_fingerprint(folder, load) == first
    monkeypatch.undo()
    config = folder / "transformer/config.json"
    config.write_text('{"changed": 1}')
    assert folder_fingerprint(folder, load) != first


@pytest.mark.parametrize(
    "changed",
    ["longtake.json", "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json"],
)
def test_the_fingerprint_depends_on_every_setting_of_a_folder(folder, tmp_path, changed):
    load = LoadOptions(cache=tmp_path / "cache")
    before, file = folder_fingerprint(folder, load), folder / changed
    file.write_text(json.dumps({**json.loads(file.read_text()), "window": 9}))
    assert folder_fingerprint(folder, load) != before


def test_the_fingerprint_covers_linked_parts_and_parts_in_a_single_precision(folder, tmp_path):
    load, part = LoadOptions(cache=tmp_path / "cache"), tmp_path / "elsewhere"
    before = folder_fingerprint(folder, load)
    (folder / "transformer").rename(part)
    (folder / "transformer").symlink_to(part)
    assert folder_fingerprint(folder, load) == before
    for file in part.glob("*"):
        if ".fp16." not in file.name:
            file.unlink()
    only = folder_fingerprint(folder, load)
    (part / "diffusion_pytorch_model.fp16.safetensors").write_text("other weights")
    assert folder_fingerprint(folder, load) not in {before, only}


FETCH = """
import sys
from pathlib import Path
from longtake.pipeline.weights.fetch import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_killed_fetch_leaves_no_partial_file_and_no_lock(folder, tmp_path):
    cache, big = tmp_path / "cache", folder / "tokenizer/spiece.model"
    with big.open("wb") as file:
        file.truncate(256 * 2**20)
    child = subprocess.Popen([sys.executable, "-c", FETCH, f"file://{folder}", str(cache)])
    parts = []
    while child.poll() is None and not any(part.stat().st_size for part in parts):
        time.sleep(0.001)
        parts = list(cache.rglob("spiece.model.part")) if cache.is_dir() else []
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "killed on the way"
    entry = parts[0].parent.parent
    assert not (entry / "tokenizer/spiece.model").exists()
    copy = fetch(f"file://{folder}", cache)
    assert copy == entry
    assert files_in(copy).keys() == FILES
    assert (copy / "tokenizer/spiece.model").stat().st_size == 256 * 2**20


def _hold(file: Path, held: "multiprocessing.synchronize.Event") -> None:
    with locked(file):
        held.set()
        time.sleep(60)


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    child = context.Process(target=_hold, args=(tmp_path / "lock", held))
    child.start()
    assert held.wait(10)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with locked(tmp_path / "lock"):
        pass
    child.join()


def test_of_two_concurrent_callers_one_fetches(url, tmp_path, opened):
    with ThreadPoolExecutor(2) as pool:
        copies = list(pool.map(lambda _: fetch(url, tmp_path / "cache"), range(2)))
    assert copies[0] == copies[1]
    assert sorted({Path(name).name for name in opened}) == sorted(Path(name).name for name in opened)


def test_a_part_of_pickles_is_refused_before_anything_is_fetched(folder, tmp_path):
    for file in (folder / "transformer").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r"\.bin is a pickle.*longtake convert"):
        fetch(f"file://{folder}", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/model", "has no model_index.json"),
        ("nobody://nowhere", "cannot be read"),
        ("memory://one/model.pt", "is a pickle"),
        ("memory://one/film.mp4", "has no model_index.json"),
    ],
)
def test_a_url_that_is_not_a_model_is_refused_with_the_fix(url, message, tmp_path):
    for name in ("model.pt", "film.mp4"):
        fsspec.filesystem("memory").pipe(f"memory://one/{name}", b"x")
    with pytest.raises(WeightsError, match=message):
        fetch(url, tmp_path / "cache")


def test_any_error_of_a_file_system_is_reported_with_the_url(tmp_path, monkeypatch):
    class CredentialsError(Exception):
        """Like those of S3's client, not an `OSError`."""

    def find(*_, **__):
        raise CredentialsError("unable to locate credentials")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "find", find)
    with pytest.raises(
        WeightsError, match=r"memory://one/model cannot be read: unable to locate.* check this machine's access"
    ):
        fetch("memory://one/model", tmp_path / "cache")


def test_a_source_that_ends_early_leaves_nothing(url, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "find_source", lambda url, find=fetching.find_source: _longer(find(url)))
    with pytest.raises(WeightsError, match=r"ended after 5 of 6 bytes"):
        fetch(url, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("spiece.model"))


def _longer(source):
    source.sizes["tokenizer/spiece.model"] += 1
    return source
