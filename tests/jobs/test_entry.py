import subprocess
import sys
from pathlib import Path

import pytest
import typer

from longtake.jobs.app import COMMANDS
from longtake.jobs.cli import main
from longtake.jobs.entry import Command, new_app, run
from longtake.pipeline.errors import MediaError, SpecError

ROOT = Path(__file__).parents[2]


def app_raising(error):
    def command() -> None:
        if error is not None:
            raise error

    app = new_app()
    app.command(cls=Command)(command)
    return app


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (MediaError("the file is damaged"), 1, "longtake: the file is damaged\n"),
        (SpecError("seed is -1; use 0"), 2, "longtake: seed is -1; use 0\n"),
        (typer.Exit(7), 7, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_raised_on_purpose_have_exit_codes_and_one_message(error, code, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run(app_raising(error), [])
    assert (ended.value.code or 0, capsys.readouterr().err) == (code, message)


def test_any_other_error_is_a_bug_and_keeps_its_stack_trace():
    with pytest.raises(ZeroDivisionError):
        run(app_raising(ZeroDivisionError()), [])


def test_a_cause_that_ray_carries_is_printed_without_its_stack_trace(capsys):
    error = MediaError("a long stack trace")
    error.cause = MediaError("the file is damaged")
    with pytest.raises(SystemExit):
        run(app_raising(error), [])
    assert capsys.readouterr().err == "longtake: the file is damaged\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_explains_all_flags_and_shows_no_type_for_those_without_a_value(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert not ended.value.code
    assert "<bool>" not in text
    assert "--help" in text


@pytest.mark.parametrize(
    "module",
    ["longtake", "longtake.jobs", *(f"longtake.jobs.{name}" for name in ("render", "batch", "upscale", "train"))],
)
def test_modules_that_jobs_run_answer_as_the_command_line_does(module):
    answer = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert f"python -m {module} [OPTIONS]" in " ".join(answer.stdout.split())
    wrong = subprocess.run(
        [sys.executable, "-m", module, "--no-such-flag"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
