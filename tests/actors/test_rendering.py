"""Opening a take: its film is planned once, and a film of another program is not overwritten."""

import pytest

from longtake.actors import rendering
from longtake.actors.rendering import RenderOptions, open_render
from longtake.pipeline.errors import SpecError
from longtake.pipeline.spec import parse_storyboard

STORYBOARD = parse_storyboard("{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle, duration: 1s}]}")


@pytest.mark.parametrize("in_process", [False, True])
def test_a_film_is_planned_once(tmp_path, monkeypatch, in_process):
    plans = []

    def plan_film(*arguments):
        plans.append(original(*arguments))
        return plans[-1]

    original = rendering.plan_film
    monkeypatch.setattr(rendering, "plan_film", plan_film)
    monkeypatch.setattr("longtake.pipeline.plan.plan_film", plan_film)
    opened = open_render(STORYBOARD, str(tmp_path / "out"), RenderOptions(in_process=in_process))
    assert len(plans) == 1
    assert opened.plan is plans[0]


def test_a_film_that_longtake_did_not_write_is_not_overwritten(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"of another program")
    with pytest.raises(SpecError, match=r"film.mp4 was not written by longtake; use another -o \(nothing was overw"):
        open_render(STORYBOARD, str(tmp_path), RenderOptions(in_process=True))
    assert (tmp_path / "film.mp4").read_bytes() == b"of another program"
