"""Training on Ray with DeepSpeed: the loss falls, and neither sharding nor interruption changes the result."""

import json
from threading import Event

import pytest
import torch
from safetensors.torch import load_file

from longtake.jobs.progress import Progress
from longtake.jobs.train.loop import train
from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.testing.training import build_linear_task
from longtake.pipeline.training.run_folder import RunFolder
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.weights.load import load_model

SPEC = TrainSpec(
    stage="codec", steps=40, batch_size=8, lr=0.1, workers=2, dtype="float32", ema=0.5, decay_fraction=0.5, log_every=10
)
MEASURES = {"seconds", "examples_per_s"}  # of the machine, not of the run

pytestmark = pytest.mark.usefixtures("ray_cluster")


class StopsAfter(Event):
    """An event that becomes set after a number of queries, like Ctrl-C after that many calls."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def is_set(self):
        self.times -= 1
        return self.times < 0


def run(path, stopping=None, **changes):
    spec = TrainSpec.model_validate({**SPEC.model_dump(), **changes})
    return train(spec, RunFolder(str(path)), build_linear_task, stopping or Event(), Progress.silent()).step


def log_of(path):
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURES} for line in lines]


@pytest.fixture(scope="module")
def alone(ray_cluster, tmp_path_factory):  # noqa: ARG001 (keeps the cluster running)
    path = tmp_path_factory.mktemp("alone")
    assert run(path, workers=1) == 40
    return path


@pytest.fixture(scope="module")
def sharded(ray_cluster, tmp_path_factory):  # noqa: ARG001 (keeps the cluster running)
    path = tmp_path_factory.mktemp("sharded")
    assert run(path, zero_stage=1) == 40
    return path


def figures(path):
    return [line[key] for line in log_of(path) for key in ("loss", "grad_norm")]


def test_the_loss_falls_and_model_and_samples_are_written(alone):
    lines = log_of(alone)
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["loss"] < lines[0]["loss"] / 4
    assert lines[-1]["lr"] == pytest.approx(0.1 / 20)
    model = load_model(str(alone / "model.safetensors"))
    assert (alone / "samples" / "00000040" / "model.txt").read_text().strip() == model.fingerprint()


def test_two_workers_with_sharded_optimizers_equal_one_with_twice_the_batch(alone, sharded):
    mine, other = load_file(alone / "model.safetensors"), load_file(sharded / "model.safetensors")
    assert all(torch.allclose(mine[name], other[name], rtol=1e-3, atol=1e-4) for name in mine)
    assert figures(sharded) == pytest.approx(figures(alone), rel=1e-3)


@pytest.mark.parametrize("changes", [{"workers": 1}, {"zero_stage": 2}], ids=["one worker", "two with ZeRO 2"])
def test_a_stopped_run_resumes_bit_for_bit(alone, sharded, tmp_path, changes):
    undisturbed = sharded if "zero_stage" in changes else alone
    assert run(tmp_path, StopsAfter(3), log_every=7, checkpoint_every_s=0, **changes) == 14
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 39}\n{"st')  # lines logged after the last state, before a kill
    assert run(tmp_path, **changes) == 40
    assert (tmp_path / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert [line["step"] for line in log_of(tmp_path)] == [7, 14, 20, 30, 40]
    assert log_of(tmp_path)[-2:] == log_of(undisturbed)[-2:]


def test_a_loss_that_is_not_finite_stops_both_workers_and_keeps_the_last_state(alone, tmp_path):
    with pytest.raises(LongtakeError, match=r"(away|loss) is nan at step 27; .* smaller lr .*0\.0"):
        run(tmp_path, options={"poisoned_step": 27})
    assert figures(tmp_path) == pytest.approx(figures(alone)[:4], rel=1e-3)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_run_is_not_resumed_under_another_spec(alone):
    with pytest.raises(SpecError, match=r"40 steps of another run: lr is 0\.2, it was 0\.1\. .* add --fresh"):
        run(alone, workers=1, lr=0.2)
