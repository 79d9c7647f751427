"""What decides a film's bits is part of the journal's keys, and a process that would render other bits refuses."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from longtake.pipeline import provenance
from longtake.pipeline.errors import JournalError
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.provenance import check_same, cpu_arithmetic, numerics
from longtake.pipeline.rollouts import Causal, Continuation
from longtake.pipeline.weights.options import LoadOptions

CPU_PARTS = ["weights", "torch", "av", "dtype", "device", "threads", "cpu", "audio_lag", "degrees", "rollout"]
RELAXED = LoadOptions(numerics="relaxed")
CUDA = LoadOptions(device=torch.device("cuda"))


def parts_of(rollout=EmbeddedModel.rollout, **settings):
    model = EmbeddedModel.untrained(replace(TINY, **settings))
    model.rollout = rollout
    return numerics(model)


@pytest.fixture
def a_gpu(monkeypatch):
    """Make this process believe that it sees a GPU, on which one kernel runs without a mask and another with one."""
    asked = []

    def flash(*_):
        raise AssertionError("only its name is needed")

    def flex(*_):
        raise AssertionError("only its name is needed")

    def kernel_for(*question):
        asked.append(question)
        return flex if question[-1] else flash

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a card at {device}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(provenance, "kernel_for", kernel_for)
    return asked


@pytest.mark.parametrize("settings", [{"window": 2}, {"sink": 0}, {"audio_lag": 0.5}], ids=str)
def test_another_context_or_lag_gives_other_numerics(settings):
    assert parts_of(**settings)["weights"] == parts_of()["weights"]
    assert parts_of(**settings) != parts_of()


def test_code_for_another_processor_that_mkl_runs_gives_other_numerics():
    script = "import torch; from longtake.pipeline.provenance import cpu_arithmetic; torch.set_num_threads(1)"
    script += "; print(cpu_arithmetic(torch.float32))"
    env = {**os.environ, "MKL_CBWR": "COMPATIBLE"}
    compatible = subprocess.check_output([sys.executable, "-c", script], env=env, text=True).strip()
    torch.set_num_threads(1)
    assert compatible != cpu_arithmetic(torch.float32) == cpu_arithmetic(torch.float32)
    assert cpu_arithmetic(torch.float32) != cpu_arithmetic(torch.bfloat16)


def test_another_rollout_or_overlap_gives_other_numerics():
    rollouts = (Causal(), Continuation(3), Continuation(5), Continuation(5, clean=False))
    assert len({parts_of(rollout)["rollout"] for rollout in rollouts}) == len(rollouts)


def test_rollouts_are_described_in_the_words_of_journals_that_exist():
    assert parts_of(Causal(), window=3, sink=1)["rollout"] == "causal, window 3, sink 1, rebuilt every 24"
    assert parts_of(Continuation(5))["rollout"] == "segments, each after 5 latents shown clean"
    assert parts_of(Continuation(3, clean=False))["rollout"] == "segments, each after 3 latents shown noised"


def test_on_a_cpu_nothing_of_a_gpu_is_in_the_keys(a_gpu):
    assert list(parts_of()) == [*CPU_PARTS[:7], "cpu arithmetic", *CPU_PARTS[7:]]
    assert not a_gpu


def test_on_a_gpu_its_name_and_its_attention_kernels_are_in_the_keys(a_gpu):
    model = EmbeddedModel.untrained(TINY)
    parts = numerics(model, load=CUDA)
    assert list(parts) == [*CPU_PARTS, "gpu", "float32 on the GPU", "convolutions", "sums with products", "attention"]
    assert parts["gpu"] == "a card at cuda"
    assert re.fullmatch(r"products (whole|tf32), convolutions (whole|tf32)", parts["float32 on the GPU"])
    assert re.fullmatch(r"cudnn \S+, (deterministic|any) kernels, (by rule|timed)", parts["convolutions"])
    assert parts["attention"] == "16: flash, masked flex"
    assert a_gpu == [("cuda", torch.float32, 16, False), ("cuda", torch.float32, 16, True)]


def test_a_process_that_sees_no_gpu_leaves_its_parts_to_the_ranks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(numerics(EmbeddedModel.untrained(TINY), load=CUDA)) == CPU_PARTS


def test_equal_numerics_are_accepted_and_digests_are_left_to_the_take():
    check_same(parts_of(), parts_of())
    check_same(parts_of(), {**parts_of(), "given": {"audio.file": "a digest that `open_take` checks"}})


@pytest.mark.parametrize(
    ("here", "promised", "message"),
    [
        ({"threads": 2}, {"threads": 1}, "threads is 2, not 1"),
        ({}, {"quantize": "int8"}, "quantize is None, not int8"),
        ({"quantize": "int8"}, {}, "quantize is int8, not None"),
        ({"gpu": "A"}, {"gpu": "B"}, "gpu is A, not B"),
        ({"gpu": "A", "attention": "x"}, {"gpu": "A", "attention": "y"}, "attention is x, not y"),
    ],
)
def test_a_process_that_would_render_other_bits_is_refused(here, promised, message):
    with pytest.raises(JournalError, match=f"would render other bits: {re.escape(message)}; use the same image"):
        check_same(here, promised)


def test_relaxed_numerics_are_equal_on_all_processors_and_differ_in_everything_else(monkeypatch):
    model = EmbeddedModel.untrained(TINY)
    relaxed = numerics(model, load=RELAXED)
    assert list(relaxed) == [name for name in [*CPU_PARTS, "processor"] if name != "cpu"]
    monkeypatch.setattr(provenance, "cpu_arithmetic", lambda _: "another")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert numerics(model)["cpu arithmetic"] == numerics(model)["cpu"] == "another"
    assert numerics(model, load=RELAXED) == relaxed
    check_same(numerics(model, load=RELAXED), relaxed)
    assert numerics(model, load=replace(RELAXED, quantize="int8")) != relaxed
    for part in ("gpu", "cpu", "cpu arithmetic"):
        with pytest.raises(JournalError, match="or --numerics relaxed, which allows any processor"):
            check_same({part: "A"}, {part: "B"})
    with pytest.raises(JournalError, match=r"processor everywhere$"):
        check_same({"torch": "1", "gpu": "A"}, {"torch": "2", "gpu": "B"})


def test_gpu_parts_are_compared_only_where_both_sides_know_them():
    check_same({}, {"gpu": "A", "attention": "x"})
    check_same({"gpu": "A", "attention": "x"}, {})
