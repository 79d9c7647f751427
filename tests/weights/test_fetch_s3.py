"""Models in S3: moto on loopback behind a proxy that injects faults."""

import threading
from random import Random

import fsspec
import pytest

from longtake.pipeline.weights.fetch import fetch
from tests.journal.faulty_s3 import FaultyS3
from tests.weights.diffusers_folder import FILES, save_folder

pytest.importorskip("s3fs")


@pytest.fixture
def server(monkeypatch):
    with FaultyS3() as server:
        config = {
            "key": "test",
            "secret": "test",
            "endpoint_url": server.url,
            "config_kwargs": {"read_timeout": 2, "connect_timeout": 2, "retries": {"max_attempts": 6}},
        }
        monkeypatch.setitem(fsspec.config.conf, "s3", config)
        yield server
        server.plan = lambda *_: ""


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_model_in_s3_is_fetched_despite_faults_and_again_after_a_change(server, tmp_path):
    folder, s3 = save_folder(tmp_path / "model"), fsspec.filesystem("s3", use_listings_cache=False)
    s3.mkdir("models")
    s3.put(f"{folder}/", "s3://models/nobody/", recursive=True)
    random, lock = Random(0), threading.Lock()

    def plan(method, _path):
        with lock:
            return random.choice(("500", "503")) if method == "GET" and random.random() < 0.3 else ""

    server.plan = plan
    copy = fetch("s3://models/nobody", tmp_path / "cache")
    assert server.faults, "faults were injected"
    found = {file.relative_to(copy).as_posix(): file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert found == {name: (folder / name).read_bytes() for name in FILES}
    server.plan = lambda *_: ""
    assert fetch("s3://models/nobody", tmp_path / "cache") == copy
    s3.pipe("s3://models/nobody/tokenizer/spiece.model", b"other")  # of the same size
    assert (fetch("s3://models/nobody/", tmp_path / "cache") / "tokenizer/spiece.model").read_bytes() == b"other"
