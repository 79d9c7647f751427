"""Keys that a storyboard leaves out have the model's defaults, in the plan, the keys, the card and the dry run."""

from dataclasses import replace
from fractions import Fraction

import pytest
from rich.console import Console

from longtake.jobs.dry_run import print_plan
from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import read_take
from longtake.pipeline.models.embedded import SOUNDING_SHAPES, TINY, EmbeddedModel
from longtake.pipeline.models.limits import DynamicShift, ModelDefaults, with_defaults
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take

OTHER = ModelDefaults(steps=1, guidance=1.0, shift=5.0, solver="unipc", width=32, height=48, fps=Fraction(24))
SCENES = "{model: tiny, scenes: [{prompt: a red circle, duration: 1s}]}"


def model_with(defaults):
    model = EmbeddedModel.untrained(TINY)
    model.defaults = defaults
    return model


def storyboard(*overrides):
    return parse_storyboard(SCENES, overrides)


def last_key(spec, model, store):
    return open_take(plan_film(spec, model), model, store, numerics(model)).journal._keys.segments[-1].key


def test_keys_that_are_left_out_are_the_models_and_the_others_stay():
    resolved = with_defaults(storyboard("sampling.steps=7", "video.width=64"), OTHER)
    assert (resolved.sampling.steps, resolved.video.width) == (7, 64)
    assert (resolved.sampling.guidance, resolved.sampling.shift, resolved.sampling.solver) == (1.0, 5.0, "unipc")
    assert (resolved.video.height, resolved.video.fps, resolved.audio.sample_rate) == (48, 24, 16_000)
    assert with_defaults(resolved, ModelDefaults()) == resolved, "what was resolved once stays so"


def test_plan_keys_card_and_dry_run_hold_what_was_resolved(tmp_path):
    model, store = model_with(OTHER), Store(str(tmp_path))
    take = open_take(plan_film(storyboard(), model), model, store, numerics(model))
    film.render(take)
    card, console = read_take(store), Console(record=True, width=160)
    assert (card.fps, card.frames) == ("24", 24)
    said = ["sampling={steps: 1, guidance: 1, shift: 5, solver: unipc}", "video={width: 32, height: 48, fps: 24}"]
    assert last_key(storyboard(*said), model, store) == last_key(storyboard(), model, store)
    assert last_key(storyboard(*said), model_with(ModelDefaults()), store) == last_key(storyboard(), model, store)
    print_plan(take.plan, model, Degrees(), console)
    assert "2 a chunk: 1 steps and the clean pass, for guided\n" in console.export_text().replace("  ", "")


def test_the_embedded_models_defaults_are_those_of_the_storyboard():
    spec = storyboard()
    defaults = EmbeddedModel.untrained(SOUNDING_SHAPES).defaults
    assert with_defaults(spec, defaults).model_dump() == spec.model_dump()


def test_a_schedule_that_does_not_go_with_the_models_steps_is_refused():
    listed = replace(OTHER, steps=3, schedule=(1.0, 0.9, 0.4))
    assert plan_film(storyboard("sampling.solver=euler"), model_with(listed)).sigmas["audio"] == (1.0, 0.9, 0.4, 0.0)
    with pytest.raises(SpecError, match=r"sampling.schedule is .*; it holds 3 sigmas for 4 steps; set .* to 3"):
        with_defaults(storyboard("sampling.steps=4"), listed)


def test_the_dynamic_schedule_is_for_models_that_have_one_and_the_same_for_chunks_of_any_length():
    with pytest.raises(SpecError, match=r"sampling\.schedule is .dynamic.; tiny has none, use shifted or linear"):
        plan_film(storyboard("sampling.schedule=dynamic"), model_with(OTHER))
    model = model_with(replace(OTHER, steps=4, solver="euler", schedule="dynamic", dynamic=DynamicShift()))
    short, long = (plan_film(storyboard(f"scenes[0].duration={d}"), model) for d in ("4f", "3s"))
    assert short.sigmas == long.sigmas
    assert short.sigmas["video"][-2] == pytest.approx(0.1)
    assert plan_film(storyboard("video.width=64"), model).sigmas != long.sigmas


def test_a_scene_that_is_too_short_at_the_models_rate_is_refused():
    with pytest.raises(SpecError, match=r"scenes\[0\].duration is '70ms'; it is less than a frame at 12 fps"):
        with_defaults(storyboard("scenes[0].duration=70ms"), replace(OTHER, fps=Fraction(12)))
