"""`longtake calibrate` writes a plan and a picture, which `longtake render --accelerate` uses."""

import json

import pytest

from longtake.jobs import cli

CALIBRATE = ["calibrate", "tiny", "--duration", "1.3s", "--progress", "none", "--set", "video={width: 16, height: 16}"]
SCENES = "[{prompt: a red circle, duration: 1s}]"
STORYBOARD = f"{{model: tiny, video: {{width: 16, height: 16}}, sampling: {{steps: 6}}, scenes: {SCENES}}}"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


def test_a_plan_is_written_with_its_picture_and_a_dry_run_says_what_it_saves(tmp_path, capsys):
    plan = tmp_path / "plan.json"
    assert run(*CALIBRATE, "--set", "sampling.steps=6", "-o", plan, "--prompt", "a red circle") == 0
    assert "budget 0.67" in capsys.readouterr().out
    assert plan.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    render = [
        "render",
        tmp_path / "film.yaml",
        "-o",
        tmp_path / "out",
        "--dry-run",
        "--in-process",
        "--progress",
        "none",
    ]
    assert run(*render, "--accelerate", plan) == 0
    assert "of the steps' work is saved" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "plan.yaml"], "a plan is a JSON file"),
        (["-o", "no/plan.json"], "is no folder"),
        (["-o", "there.json"], "is not overwritten"),
        (["-o", "plan.json", "--prompt", "a red circle", "--set", "sampling.steps=2"], "too few to skip any"),
        (["-o", "plan.json", "--prompt", "a red circle", "--set", "sampling.accelerate=freeze"], "leave it out"),
        (["-o", "plan.json", "--prompt", "a red circle", "--duration", "0.5s"], "render longer films"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    assert run(*CALIBRATE, *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "there.json").read_text()) == {}
    assert not (tmp_path / "plan.json").exists()
