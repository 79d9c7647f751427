"""Opening a take: its film is planned once, and a film of another program is not overwritten."""

import pytest
from rich.console import Console

from longtake.jobs import take
from longtake.jobs.take import RenderOptions, prepare
from longtake.pipeline.errors import SpecError

STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle, duration: 1s}]}"


@pytest.fixture
def storyboard(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text(STORYBOARD)
    return str(path)


def prepared(storyboard, output, **options):
    console = Console(record=True, width=300)
    opened = prepare(storyboard, str(output), RenderOptions(in_process=True, **options), console)
    return opened, console.export_text()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_film_is_planned_once(storyboard, tmp_path, monkeypatch, dry_run):
    plans = []

    def plan_film(*arguments):
        plans.append(original(*arguments))
        return plans[-1]

    original = take.plan_film
    monkeypatch.setattr(take, "plan_film", plan_film)
    monkeypatch.setattr("longtake.pipeline.plan.plan_film", plan_film)
    opened, _ = prepared(storyboard, tmp_path / "out", dry_run=dry_run)
    assert len(plans) == 1
    assert opened is None if dry_run else opened.plan is plans[0]


def test_a_film_that_longtake_did_not_write_is_not_overwritten(storyboard, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"of another program")
    with pytest.raises(SpecError, match=r"film.mp4 was not written by longtake; use another -o \(nothing was overw"):
        prepared(storyboard, tmp_path)
    assert (tmp_path / "film.mp4").read_bytes() == b"of another program"
