import json
from hashlib import sha256

import pytest

from longtake.pipeline.journal.journal import ChunkManifest
from longtake.pipeline.journal.manifests import Manifest, ManifestStore, compact_json, indented_json
from longtake.pipeline.journal.store import Store

NAME = "journal/latents/00007"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.fixture
def manifests(store):
    return ManifestStore(store, ChunkManifest, ".safetensors", indented_json)


def data_names(store):
    return [name for name in store.list("journal") if name.endswith(".safetensors")]


def test_data_is_found_under_its_key_and_no_other(manifests):
    assert manifests.get(NAME, "k") is None
    manifests.commit(NAME, "k", b"latents", parts={"prompt": "a"})
    assert manifests.get(NAME, "k") == b"latents"
    assert manifests.get(NAME, "other") is None
    assert manifests.manifest(NAME).parts == {"prompt": "a"}


def test_a_writer_that_dies_before_its_manifest_changes_nothing(manifests, store, monkeypatch):
    manifests.commit(NAME, "k", b"first", parts={})
    put = store.put

    def dies_at_the_manifest(name, data):
        if name.endswith(".json"):
            raise OSError("died")
        put(name, data)

    monkeypatch.setattr(store, "put", dies_at_the_manifest)
    with pytest.raises(OSError, match="died"):
        manifests.commit(NAME, "k", b"second", parts={})
    assert len(data_names(store)) == 2, "no attempt overwrites the data of another"
    assert manifests.get(NAME, "k") == b"first"


@pytest.mark.parametrize("harm", [b"", b"laTents", None])
def test_damaged_and_missing_data_does_not_count(manifests, store, harm):
    manifests.commit(NAME, "k", b"latents", parts={})
    (name,) = data_names(store)
    store.delete(name)
    if harm is not None:
        store.put(name, harm)
    assert manifests.get(NAME, "k") is None


def test_a_manifest_that_names_another_file_does_not_count(manifests, store):
    manifests.commit(NAME, "k", b"latents", parts={})
    card = json.loads(store.get(f"{NAME}.json"))
    store.put(f"{NAME}.json", json.dumps({**card, "data": "../film.mp4"}).encode())
    assert manifests.manifest(NAME) is None


def test_manifests_are_written_as_ever(manifests, store):
    manifests.commit(NAME, "k", b"x", parts={"prompt": "é"})
    (data,) = data_names(store)
    fields = {"key": "k", "data": data, "bytes": 1, "sha256": sha256(b"x").hexdigest(), "parts": {"prompt": "é"}}
    assert store.get(f"{NAME}.json") == json.dumps(fields, indent=1).encode()
    ManifestStore(store, Manifest, ".bin", compact_json).commit("journal/segments/1", "k", b"x")
    text = store.get("journal/segments/1.json").decode()
    assert text == Manifest.model_validate_json(text).model_dump_json()
