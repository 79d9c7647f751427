"""One line in the registry makes a solver or a schedule known to storyboards, to error messages and to the sampler."""

import subprocess
import sys
from fractions import Fraction

import pytest

from longtake.pipeline import registry
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.sampling.solver import Euler, solver_named
from longtake.pipeline.spec import STORYBOARD_TEMPLATE, parse_storyboard

STORYBOARD = """
model: tiny
sampling: {steps: 2, solver: heun, schedule: halving}
scenes: [{prompt: a red circle rests, duration: 1s}]
"""


class Heun(Euler):
    lowest_level = 0.25


class Halving:
    def sigmas(self, film):
        return dict.fromkeys(("video", "audio"), (*(0.5**step for step in range(film.steps)), film.lowest, 0.0))


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(registry.SOLVERS, "heun", f"{__name__}:Heun")
    monkeypatch.setitem(registry.SCHEDULES, "halving", f"{__name__}:Halving")


@pytest.mark.usefixtures("added")
def test_a_solver_and_a_schedule_need_one_line_each():
    storyboard = parse_storyboard(STORYBOARD)
    assert isinstance(solver_named("heun"), Heun)
    plan = plan_film(storyboard, EmbeddedModel.untrained(TINY))
    assert plan.sigmas == {"video": (1.0, 0.5, 0.25, 0.0), "audio": (1.0, 0.5, 0.25, 0.0)}
    assert plan.clock.fps == Fraction(16)


@pytest.mark.usefixtures("added")
def test_an_unknown_name_is_refused_with_the_known_ones_among_all_other_mistakes():
    with pytest.raises(SpecError) as caught:
        parse_storyboard(STORYBOARD, ["sampling={solver: magic, schedule: magic}", "seed=-1"])
    assert "sampling.solver is 'magic'; use 'euler', 'renoise', 'unipc' or 'heun'" in str(caught.value)
    assert (
        "sampling.schedule is 'magic'; use shifted, linear, dynamic, full, fixed, halving, or a list of sigmas"
        in str(caught.value)
    )
    assert "seed is -1" in str(caught.value)


@pytest.mark.parametrize("names", [registry.SOLVERS, registry.SCHEDULES, registry.FAMILIES])
def test_every_name_stands_for_something_that_is_there(names):
    for target in names.values():
        assert callable(registry.resolve(target))


def test_the_template_names_all_solvers_and_schedules():
    assert f"# {', '.join(registry.SOLVERS)};" in STORYBOARD_TEMPLATE
    assert f"# {', '.join(registry.SCHEDULES)}, or" in STORYBOARD_TEMPLATE


def test_names_are_known_without_torch():
    code = "import sys, longtake.pipeline.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
