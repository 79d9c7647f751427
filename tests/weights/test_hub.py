"""Models in Hugging Face repositories: only needed files are downloaded, and errors state the fix."""

import huggingface_hub
import pytest

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.folder import model_name
from longtake.pipeline.weights.hub import fetch_hub, is_hub_id
from tests.weights.diffusers_folder import FILES, save_folder
from tests.weights.fake_hub import COMMIT, FakeHub


@pytest.fixture
def hub(tmp_path):
    with FakeHub(save_folder(tmp_path / "served")) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "hub-cache"


@pytest.mark.parametrize("name", ["nobody/films", "nobody/films@v1", f"nobody/films@{COMMIT}"])
def test_only_needed_files_are_fetched(hub, cache, name):
    copy = fetch_hub(name, cache / "sums", cache, hub.url)
    found = {file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()}
    assert found == FILES
    assert all((copy / file).read_bytes() == (hub.folder / file).read_bytes() for file in FILES)
    assert set(hub.fetched) == FILES
    assert model_name(copy) == "films"
    assert model_name(hub.folder) == "served"
    hub.fetched.clear()
    assert fetch_hub(name, cache / "sums", cache, hub.url) == copy
    assert hub.fetched == []


def test_a_cached_model_is_found_without_a_network(hub, cache, monkeypatch):
    copy = fetch_hub("nobody/films", cache / "sums", cache, hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch_hub("nobody/films", cache / "sums", cache) == copy
    with pytest.raises(WeightsError, match=r"the hub cannot be reached.*`hf download nobody/other`"):
        fetch_hub("nobody/other@main", cache / "sums", cache)


def test_only_damaged_weights_are_fetched_again(hub, cache):
    copy = fetch_hub("nobody/films", cache / "sums", cache, hub.url)
    broken = copy / "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    blob = broken.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    hub.fetched.clear()
    assert fetch_hub("nobody/films", cache / "sums", cache, hub.url) == copy
    assert hub.fetched == ["transformer/diffusion_pytorch_model-00002-of-00002.safetensors"]
    assert broken.read_bytes() == (hub.folder / broken.relative_to(copy)).read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", "no such repository exists, or it is private; check the name"),
        ("gated/films", "agreement to the licence"),
        ("nobody/films@v9", "no such revision; check what follows"),
    ],
)
def test_a_missing_or_gated_repository_is_refused_with_the_fix(hub, cache, name, message):
    with pytest.raises(WeightsError, match=f"model is '{name}': no such local folder, .*{message}"):
        fetch_hub(name, cache / "sums", cache, hub.url)


def test_a_repository_in_another_format_is_refused_with_the_fix(hub, cache):
    (hub.folder / "model_index.json").unlink()
    with pytest.raises(WeightsError, match=r"has no model_index.json; use the one in diffusers' format"):
        fetch_hub("nobody/films", cache / "sums", cache, hub.url)


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", True),
        ("owner/name@refs/pr/3", True),
        ("tiny", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("./b", False),
    ],
)
def test_names_of_repositories_are_recognised(name, is_id):
    assert is_hub_id(name) == is_id
