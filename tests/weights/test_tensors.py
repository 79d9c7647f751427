"""Tensors are loaded exactly, mapped and not copied, from any number of files."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import fill, stored_dtype, weight_files, without_weights
from tests.weights.diffusers_folder import save_shards

MIB = 2**20


def build(layers=4):
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(4, 8, bias=False) for _ in range(layers)))


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {f"{n}.weight": torch.randn(8, 4) for n in range(4)}


@pytest.fixture
def shards(tmp_path, state):
    save_shards(tmp_path / "transformer", state)
    return tmp_path / "transformer"


def test_shards_and_a_single_file_give_the_same_module(tmp_path, state, shards):
    save_file(state, tmp_path / "one.safetensors")
    for part in (shards, tmp_path / "one.safetensors"):
        loaded = fill(build(), part, LoadOptions()).state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_get_the_requested_dtype_except_those_that_keep_float32(shards, state, dtype):
    loaded = fill(build(), shards, LoadOptions(dtype=dtype), float32=["2"]).state_dict()
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor if key == "2.weight" else tensor.to(dtype))
    assert stored_dtype(shards) == torch.float32


class Forgiving(nn.Sequential):
    """A network whose class states which tensors a part may lack or have in addition."""

    _tied_weights_keys = ("3.weight",)
    _keys_to_ignore_on_load_unexpected = ("rope",)


def test_a_part_may_hold_more_networks_lack_tied_keys_and_have_ignored_tensors(tmp_path, state):
    held = {f"a.{key}": tensor for key, tensor in state.items() if key != "3.weight"} | {"b.0.weight": torch.ones(1)}
    save_file(held | {"a.rope.table": torch.ones(1)}, tmp_path / "one.safetensors")
    loaded = fill(Forgiving(*build()), tmp_path / "one.safetensors", LoadOptions(), prefix="a.").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in ("0.weight", "1.weight", "2.weight"))
    assert loaded["3.weight"].is_meta
    with pytest.raises(WeightsError, match=r"1 missing \(3.weight\), 1 left over \(rope.table\)"):
        fill(build(), tmp_path / "one.safetensors", LoadOptions(), prefix="a.")


class Scaled(nn.Linear):
    """A layer with a computed buffer that no file holds."""

    def __init__(self):
        super().__init__(4, 8, bias=False)
        self.register_buffer("scale", torch.arange(8.0), persistent=False)

    def forward(self, x):
        return super().forward(x) * self.scale


def test_buffers_computed_on_meta_become_none_and_others_stay(tmp_path):
    save_file({"weight": torch.ones(8, 4)}, tmp_path / "one.safetensors")
    with torch.device("meta"):
        void = Scaled()
    fill(void, tmp_path / "one.safetensors", LoadOptions())
    with pytest.raises(TypeError, match="NoneType"):
        void(torch.ones(4))
    empty = without_weights(Scaled())
    assert empty.weight.is_meta
    filled = fill(empty, tmp_path / "one.safetensors", LoadOptions())
    assert torch.equal(filled(torch.ones(4)), 4 * torch.arange(8.0))


def test_missing_left_over_and_misshapen_tensors_are_all_named(tmp_path, state):
    del state["1.weight"]
    state |= {"extra": torch.ones(1), "3.weight": torch.ones(2, 2)}
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(build(), tmp_path / "one.safetensors", LoadOptions())
    for part in ("1 missing (1.weight)", "1 left over (extra)", "3.weight (2, 2) instead of (8, 4)", "of 4"):
        assert part in str(caught.value)


def test_a_missing_shard_is_named(shards):
    (shards / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 of 2 shards are missing from .*model-00002-of-00002\.safetensors"):
        fill(build(), shards, LoadOptions())


def test_a_truncated_shard_is_named(shards):
    shard = shards / "diffusion_pytorch_model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors is damaged or truncated"):
        fill(build(), shards, LoadOptions())


def test_an_index_that_disagrees_with_its_shards_is_named(shards):
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    where = json.loads(index.read_text())
    where["weight_map"]["0.bias"] = where["weight_map"]["0.weight"]
    index.write_text(json.dumps(where))
    with pytest.raises(WeightsError, match=r"differ in 1 tensors \(0.bias\)"):
        weight_files(shards)
    for text in ("{}", '{"weight_map": [1]}'):
        index.write_text(text)
        with pytest.raises(WeightsError, match="is not an index of shards"):
            weight_files(shards)
    index.write_text('{"weight_map": {}}')
    with pytest.raises(WeightsError, match="lists no tensors"):
        weight_files(shards)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.ckpt", "model.pth"])
def test_a_pickle_is_refused_with_the_fix(tmp_path, name):
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    for part in (tmp_path, tmp_path / name):
        with pytest.raises(WeightsError, match=rf"{name} is a pickle.*longtake convert"):
            weight_files(part)


def test_an_empty_part_and_one_of_two_files_are_refused(tmp_path, state):
    with pytest.raises(WeightsError, match=r"holds no \.safetensors file"):
        weight_files(tmp_path / "nowhere")
    for name in "ab":
        save_file(state, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"holds 2 \.safetensors files without an index"):
        weight_files(tmp_path)


HOLD = """
import sys
from pathlib import Path
import torch
from torch import nn
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import fill

def kib(word):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word + ":"))

file, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
with torch.device("meta"):
    module = nn.Sequential(*(nn.Linear(1024, 1280, bias=False) for _ in range(40)))
torch.ones(1) @ torch.ones(1)
before = {word: kib(word) for word in ("Pss", "Rss", "Anonymous")}
fill(module, file, LoadOptions(dtype=dtype))
total = sum(float(weight.float().sum()) for weight in module.parameters())
print("ready", flush=True)
sys.stdin.readline()
print(*(kib(word) - before[word] for word in before), total, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """200 MiB of float32 in 40 tensors."""
    file = tmp_path_factory.mktemp("large") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file({f"{n}.weight": torch.randn(1280, 1024, generator=generator) for n in range(40)}, file)
    return file


def held_by_two(file, dtype):
    """PSS, RSS and anonymous memory of two processes, in MiB each, while both have the file in a module."""
    command = [sys.executable, "-c", HOLD, str(file), dtype]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        print("go", file=child.stdin, flush=True)
    answers = [child.stdout.readline().split() for child in children]
    for child in children:
        child.communicate("end\n")
    assert answers[0][3] == answers[1][3]
    return [[int(word) / 1024 for word in answer[:3]] for answer in answers]


def test_two_processes_that_load_one_file_share_its_memory(large):
    for pss, rss, anonymous in held_by_two(large, "float32"):
        assert rss >= 190, "all of it was read"
        assert pss <= 130, "half of it each"
        assert anonymous <= 40, "no copy"


def test_a_converted_file_costs_each_process_only_the_converted_tensors(large):
    for _, _, anonymous in held_by_two(large, "bfloat16"):
        assert 90 <= anonymous <= 140
