"""The training configuration: all mistakes are reported at once, each with key, value and fix."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from longtake.pipeline.errors import JournalError, LongtakeError, SpecError
from longtake.pipeline.training.run_folder import Progress, RunFolder, fresh_folder
from longtake.pipeline.training.spec import (
    TrainSpec,
    check_limits,
    check_limits_are_logged,
    load_train_spec,
    parse_train_spec,
)
from longtake.pipeline.training.tasks import check_options

MINIMAL = "{stage: codec, steps: 100, batch_size: 8, lr: 1e-3}"
FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


def mistakes(text, *overrides):
    with pytest.raises(SpecError) as caught:
        parse_train_spec(text, overrides, source="it")
    return str(caught.value).splitlines()


def test_a_minimal_configuration_is_read_and_accepts_exponents():
    spec = parse_train_spec(MINIMAL, ["betas=[0, 0.99]", "options.shift=3e0", "options.name=soft"])
    assert (spec.lr, spec.betas, spec.options) == (1e-3, (0.0, 0.99), {"shift": 3.0, "name": "soft"})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_shipped_configurations_are_read(path):
    spec = load_train_spec(str(path))
    assert spec.stage == path.stem
    assert (spec.device == "cuda") == path.is_relative_to(FOLDER / "gpu")
    check_options(spec)


def test_all_mistakes_are_reported_at_once():
    lines = mistakes("{stage: denoise, steps: 0, lr: fast, batchsize: 4, zero_stage: 3, seed: 1.5}", "betas=[0.9]", "x")
    for part in (
        "it: --set x: write key=value",
        "it: stage is 'denoise'; use 'codec', 'denoiser', 'rollout', 'lora' or 'upscaler'",
        "it: steps is 0; use a whole number from 1 to",
        "it: batch_size is missing; add it",
        "it: lr is 'fast'; use a number from 0 to 10",
        "it: batchsize (4) is not a known key; did you mean batch_size?",
        "it: zero_stage is 3; use a whole number from 0 to 2",
        "it: seed is 1.5; use a whole number",
    ):
        assert any(line.startswith(part) for line in lines), (part, lines)
    assert any(line.startswith("it: betas") for line in lines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workers=3", "batch_size is 8; it does not split over 3 workers, use 6 or 9"),
        ("workers=16", "batch_size is 8; it does not split over 16 workers, use 16"),
        ("warmup_steps=101", "warmup_steps is 101; with 0 steps of decay .* the 100 steps in total, use at most 100"),
        ("bogus=1", "bogus (1) is not a known key; options of a task go under options"),
    ],
)
def test_conflicting_values_are_reported_with_the_nearest_valid_one(override, message):
    (line,) = mistakes(MINIMAL, override)
    assert re.search(message if ".*" in message else re.escape(message), line)


def test_a_missing_file_points_to_the_examples(tmp_path):
    with pytest.raises(SpecError, match="does not exist; see configs/"):
        load_train_spec(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_learning_rate_rises_stays_and_falls(decay):
    spec = parse_train_spec(MINIMAL, ["warmup_steps=10", "decay_fraction=0.2", f"decay={decay}"])
    rates = [spec.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9:81] == [1e-3] * 72
    assert all(later < earlier for earlier, later in pairwise(rates[80:]))
    assert 0 < rates[-1] < 1e-4


def test_a_run_may_become_longer_if_its_past_steps_stay_the_same(tmp_path):
    folder, spec = RunFolder(str(tmp_path)), parse_train_spec(MINIMAL, ["decay_fraction=0.2"])
    assert folder.open(spec) == Progress()
    (folder.states_path / "00000080").mkdir(parents=True)
    (folder.states_path / "00000040").mkdir()
    folder.keep(spec, Progress(80, 1.5))
    assert [path.name for path in folder.states_path.iterdir()] == ["00000080"]
    assert folder.open(TrainSpec(**{**spec.model_dump(), "steps": 400, "log_every": 3})) == Progress(80, 1.5)
    with pytest.raises(SpecError, match="seed is 7, it was 0"):
        folder.open(TrainSpec(**{**spec.model_dump(), "seed": 7}))
    folder.keep(spec, Progress(90, 2.0))  # some of its decay is done
    with pytest.raises(SpecError, match=r"90 steps of another run: steps is 400, it was 100\."):
        folder.open(TrainSpec(**{**spec.model_dump(), "steps": 400}))


def test_fresh_uses_the_first_folder_without_a_run(tmp_path):
    spec = parse_train_spec(MINIMAL)
    assert fresh_folder(str(tmp_path / "run")).path == tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name / "state").mkdir(parents=True)
        RunFolder(str(tmp_path / name)).keep(spec, Progress(1, 1.0))
    assert fresh_folder(f"{tmp_path / 'run'}/").path == tmp_path / "run-3"


def test_a_foreign_model_is_not_overwritten_and_a_damaged_run_is_reported(tmp_path):
    folder, spec = RunFolder(str(tmp_path)), parse_train_spec(MINIMAL)
    folder.model_path.write_bytes(b"precious")
    with pytest.raises(SpecError, match="nothing was overwritten"):
        folder.open(spec)
    (tmp_path / "run.json").write_text('{"step": 3}')
    with pytest.raises(JournalError, match=r"run\.json is damaged .* add --fresh"):
        folder.open(spec)
    with pytest.raises(SpecError, match="use a folder"):
        RunFolder("memory://run")


def test_a_run_that_misses_a_limit_fails():
    spec = parse_train_spec(MINIMAL, ["at_least.psnr_db=30", "at_most.loss=0.2"])
    check_limits(spec, {"psnr_db": 30.0, "loss": 0.2})
    with pytest.raises(LongtakeError, match=r"psnr_db is 28\.3, at least 30 is needed; loss is 0\.25, at most 0\.2 is"):
        check_limits(spec, {"psnr_db": 28.3, "loss": 0.25})
    check_limits_are_logged(spec, {"psnr_db": 1.0, "loss": 1.0})
    with pytest.raises(SpecError, match=r"at_least\.psnr_db is not a figure of this stage; its log has step, loss"):
        check_limits_are_logged(spec, {"step": 1, "loss": 1.0})
