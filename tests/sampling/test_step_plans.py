"""Step plans: computing everything changes no bit, the others skip what they say, on any number of ranks and after any
kill, and never the clean pass."""

import json
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.calibrate import as_text, calibrate
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.registry import METHODS
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.sampling.calibration import ForecastErrors, Recorded, RecordedChunk
from longtake.pipeline.sampling.forecast import chebyshev, taylor
from longtake.pipeline.sampling.step_cache import EVERYTHING, StepCache
from longtake.pipeline.sampling.step_plan import COMPUTE, Extrapolate, Freeze, SkipBranch, Table
from longtake.pipeline.sampling.step_presets import published
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.testing.thread_ranks import run_threads
from longtake.pipeline.weights.load import load_model
from tests.tiny_take import legs, render, take_in

STEPS = 6
LAYERS = TINY.denoiser.num_layers
MEASURED = {
    "magcache": {"ratios": [1.0, 0.99, 1.01, 1.0], "threshold": 0.5},
    "smoothcache": {"errors": [[0.05] * STEPS, [0.2] * STEPS], "limit": 0.1},
    "mixcache": {"step_errors": [0.3] * STEPS, "guidance_errors": [0.05] * STEPS, "warm_up": 1},
    "teacache": {"threshold": 0.5},
    "easycache": {"threshold": 5.0},
    "fbcache": {"threshold": 0.9},
    "dbcache": {"front": 1, "back": 0, "threshold": 0.9, "start": 2},
}
"""Parameters with which each method finds something to skip in so few steps."""


@cache
def model():
    return EmbeddedModel.untrained(replace(TINY, audio_lag=0.75))


def storyboard(accelerate=None, *further, steps=STEPS, scenes="{prompt: a red circle, duration: 1.3s}"):
    sampling = {"steps": steps, **({} if accelerate is None else {"accelerate": accelerate})}
    text = f"{{model: tiny, video: {{width: 16, height: 16}}, sampling: {json.dumps(sampling)}, scenes: [{scenes}]}}"
    return parse_storyboard(text, further)


def stage_of(plan, parallel=None, rollout_model=None):
    own = rollout_model or model()
    return DenoiseStage(own, plan, lambda _: None, *(() if parallel is None else (parallel,)))


@torch.inference_mode()
def latents(plan, parallel=None):
    """The latents of a film's two chunks, and the share of the work that was done."""
    embed, stage = EmbedStage(model().text, plan), stage_of(plan, parallel)
    found = [stage(chunk, embed(chunk)) for chunk in plan.chunks]
    return [(each.video, each.audio) for each in found], stage.engine.sampling.cache.work.share


def same(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@cache
def plain():
    return latents(plan_film(storyboard(), model()))[0]


def everything(plan):
    rows = [dict.fromkeys(plan.setting.tokens, COMPUTE)] * STEPS
    return Table(dict.fromkeys(plan.branches, rows))


def test_a_plan_that_computes_everything_changes_no_bit():
    plan = plan_film(storyboard(), model())
    for steps in (everything(plan), Table({}, freezes=False)):
        found, share = latents(replace(plan, steps=replace(plan.steps, plan=steps)))
        assert share == 1
        assert same(found, plain())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "spare-openings"])
def test_each_method_does_less_work_and_as_much_as_it_says(name):
    plan = plan_film(storyboard({"method": name, **MEASURED.get(name, {})}), model())
    (found,), share = latents(replace(plan, chunks=plan.chunks[:1]))
    said = plan.steps.plan.work(plan.setting)
    assert share < 1
    assert said is None or abs(said - share) < 1e-9
    assert all(x.isfinite().all() for x in found)


def test_methods_can_be_combined():
    alone = plan_film(storyboard("taylorseer"), model())
    both = plan_film(storyboard(["freeze", "taylorseer", {"method": "teacache", "threshold": 0.5}]), model())
    assert latents(both)[1] < latents(alone)[1] < 1


def test_the_clean_pass_is_never_cached_and_skipped_branches_never_run(monkeypatch):
    plan = plan_film(storyboard(["guidance-difference", "taylorseer"]), model())
    passes, call = [], type(model().denoiser.blocks[0]).forward
    stage = stage_of(plan)
    denoise = stage.engine.denoiser

    def spied(streams, text, context, run):
        passes.append(run)
        return denoise(streams, text, context, run)

    stage.engine.denoiser = spied
    blocks = []
    monkeypatch.setattr(type(model().denoiser.blocks[0]), "forward", lambda *a: blocks.append(0) or call(*a))
    chunk = plan.chunks[0]
    with torch.inference_mode():
        stage(chunk, EmbedStage(model().text, plan)(chunk))
    assert [run for run in passes if run.step is None] == [Pass(None, "guided"), Pass(None, "unguided")]
    assert [run.step for run in passes if run.branch == "guided"] == [0, 1, 2, 4, 5, None]
    assert [run.step for run in passes if run.branch == "unguided"] == [0, 1, 4, 5, None]
    assert len(blocks) == LAYERS * len(passes)


# ------------------------------------------------------------------ predictions


def test_forecasts_are_exact_for_polynomials_of_their_order():
    line, square = (lambda t: 3 - 2 * t), (lambda t: t * t)
    steps = [1.0, 2.0, 3.0, 4.0]
    for order, f in ((1, line), (2, line)):
        assert sum(w * f(t) for w, t in zip(taylor(steps, 6, order), steps, strict=True)) == pytest.approx(f(6))
    assert taylor(steps, 9, 0) == [0, 0, 0, 1]
    weights = chebyshev([*map(float, range(12))], 12, 4, 24)
    assert sum(w * square(t) for w, t in enumerate(weights)) >= 0 or weights  # a ridge fit is near, not exact


def test_a_velocity_that_is_skipped_is_that_of_the_last_step_or_its_line():
    cached = StepCache(Table({"guided": [{}, {}, {"video": Extrapolate(1)}]}), setting(("guided",)))
    streams = {"video": stream(1.0)}
    for step, value in enumerate((1.0, 3.0)):
        cached.actions(step, ["guided"], streams)
        cached.completed(step, {"guided": {"video": torch.tensor([value])}}, streams)
    (actions,) = cached.actions(2, ["guided"], streams).values()
    assert actions == {"video": Extrapolate(1)}
    assert cached.velocities(2, "guided", streams, {})["video"].item() == 5


def test_a_skipped_branch_has_no_effect_or_keeps_its_difference():
    rows = [{}, {"video": SkipBranch(0)}, {"video": SkipBranch()}]
    cached = StepCache(Table({"unguided": rows}), setting(("guided", "unguided")))
    streams, found = {"video": stream(1.0)}, []
    for step in range(3):
        cached.actions(step, ["guided", "unguided"], streams)
        velocities = {"guided": {"video": torch.tensor([float(step)])}, "unguided": {"video": torch.tensor([10.0])}}
        found.append(cached.completed(step, velocities, streams)["unguided"]["video"].item())
    assert found == [10, 11, 2]


def test_other_weights_start_with_an_empty_memory():
    table = Table({"guided": [{"video": Extrapolate()}] * 4})
    cached = StepCache(table, replace(setting(("guided",)), switches=(2,)))
    done = []
    for step in range(4):
        streams = {"video": stream(1.0)}
        (actions,) = cached.actions(step, ["guided"], streams).values()
        cached.completed(step, {"guided": {"video": torch.ones(1)}}, streams)
        done.append(actions["video"] == COMPUTE)
    assert done == [True, False, True, False]


def setting(branches):
    plan = plan_film(storyboard(), model())
    return replace(plan.setting, branches=branches, tokens={"video": 1})


def stream(level):
    from longtake.pipeline.models.protocols import Stream

    return Stream(torch.zeros(1), torch.full((1, 1), level), torch.zeros(1, dtype=torch.float64))


# ------------------------------------------------------------------ streams


def test_a_stream_at_rest_is_frozen_and_the_other_one_still_sees_it():
    plan = plan_film(storyboard("freeze"), model())
    found, _ = latents(plan)
    for (video, audio), (own_video, own_audio) in zip(found[:1], plain()[:1], strict=True):
        assert float((video - own_video).norm() / own_video.norm()) < 0.05
        assert float((audio - own_audio).norm() / own_audio.norm()) < 0.05
        assert not torch.equal(audio, own_audio)


def test_a_frozen_stream_is_seen_with_the_keys_that_it_had():
    """In a step whose latents are those of the last one, freezing one stream changes nothing for the other one."""
    plan = plan_film(storyboard(), model())
    rows = [{}, {"video": Freeze()}]
    for continued in (False, True):
        kv_plan = KVPlan(0, keeps_passes=True) if continued else plan.kv_plan
        rollout = Continuation(1) if continued else plan.rollout
        frozen = replace(plan.steps, plan=Table({"guided": rows, "unguided": rows}))
        stage = stage_of(replace(plan, steps=frozen, kv_plan=kv_plan, rollout=rollout))
        engine, chunk = stage.engine, plan.chunks[0]
        with torch.inference_mode():
            prompts = engine._sent(EmbedStage(model().text, plan)(chunk).prompts)
            values = {name: engine._noise(chunk, name, 0) for name in engine.latent_shapes}
            from longtake.pipeline.sampling.engine import Scope

            scope = Scope(chunk, engine.times_s(chunk))
            streams = {name: engine._inputs(scope, name, [0.5], x.dtype).stream(x, 0) for name, x in values.items()}
            whole, part = (engine._guided(streams, chunk, prompts, step) for step in (0, 1))
        assert torch.equal(whole["audio"], part["audio"])
        assert not part["video"].any()


# ------------------------------------------------------------------ ranks


BLOCKS = ["freeze", "guidance-interval", {"method": "fbcache", "threshold": 0.6}]
PASSES = ["guidance-difference", {"method": "easycache", "threshold": 5.0}]


@pytest.mark.parametrize(
    ("degrees", "accelerate"),
    [(Degrees(ulysses=2), BLOCKS), (Degrees(ring=2, cfg=2), BLOCKS), (Degrees(ulysses=2, cfg=2), PASSES)],
    ids=str,
)
def test_ranks_make_the_decisions_of_one_rank(degrees, accelerate):
    plan = plan_film(storyboard(accelerate), model())
    alone, _ = latents(plan)
    for found, _ in run_threads(partial(latents, plan), degrees):
        for one, other in zip(found, alone, strict=True):
            for a, b in zip(one, other, strict=True):
                assert float((a - b).norm() / b.norm()) < 1e-4


# ------------------------------------------------------------------ journal


def test_killed_and_resumed_is_undisturbed_bit_for_bit(tmp_path):
    board = parse_storyboard(
        "{model: tiny, seed: 3, video: {width: 16, height: 16}, scenes: [{prompt: a red circle, duration: 2.6s}],"
        " sampling: {steps: 4, accelerate: [freeze, {method: fbcache, threshold: 0.9}]}}"
    )
    whole, killed = Store(str(tmp_path / "whole")), Store(str(tmp_path / "killed"))
    render(whole, storyboard=board)
    list(legs(lambda recorder: render(killed, recorder, board), [("denoise.chunk", 1)]))
    assert whole.get("film.mp4") == killed.get("film.mp4")


def test_without_a_plan_keys_are_those_of_older_journals_and_a_plan_changes_them(tmp_path):
    keys = {}
    for name, accelerate in (("none", None), ("null", []), ("every 2", "taylorseer"), ("3", "delta-dit")):
        take = take_in(Store(str(tmp_path)), storyboard(accelerate))
        keys[name] = take.journal._keys.latents[0]
        assert ("accelerate" in keys[name].parts) is (name not in ("none", "null"))
        assert "accelerate" not in keys[name].parts["sampling"]
    assert keys["none"] == keys["null"]
    assert len({key.key for key in keys.values()}) == 3
    assert keys["every 2"].parts["accelerate"].startswith("taylorseer (")


def test_what_a_plan_says_in_full_is_planned_alike():
    plan = plan_film(storyboard(["freeze", {"method": "taylorseer", "every": 3}]), model())
    again = plan_film(plan.storyboard, model())
    assert again.storyboard == plan.storyboard
    assert again.steps.plan == plan.steps.plan
    assert Table.load(json.loads(json.dumps(plan.steps.plan.dump()))) == plan.steps.plan


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("accelerate", "further", "said"),
    [
        ("tailorseer", [], "did you mean taylorseer?"),
        ({"method": "taylorseer", "evry": 2}, [], "no parameter 'evry'; it has every"),
        ({"method": "taylorseer", "every": 0.5}, [], "every is 0.5; use a whole number"),
        ({"method": "teacache", "polynomial": "x"}, [], "polynomial is 'x'; use a list of numbers"),
        ({"every": 2}, [], "name one method or one file"),
        (["teacache", "fbcache"], [], "teacache and fbcache both decide"),
        ("magcache", [], "longtake calibrate"),
        ("guidance-interval", ["sampling.guidance=1"], "sampling.guidance is 1"),
        ("nowhere/plan.json", [], "does not exist; write it with longtake calibrate"),
        ({"method": "dbcache", "front": 7}, [], "front is 7 and back 0; tiny has 2 blocks"),
    ],
)
def test_a_wrong_plan_is_refused_before_work_starts(accelerate, further, said):
    with pytest.raises(SpecError) as refused:
        plan_film(storyboard(accelerate, *further), model())
    assert said in str(refused.value)


def test_a_film_without_a_plan_runs_the_plan_of_everything():
    assert plan_film(storyboard(), model()).steps.plan is EVERYTHING
    assert plan_film(storyboard({"method": "taylorseer", "warm_up": 6}), model()).steps.plan is EVERYTHING


# ------------------------------------------------------------------ calibration


@cache
def calibration():
    return calibrate(model(), [storyboard(scenes="{prompt: a red circle, duration: 1.3s}")], budgets=(0.8, 0.5))


@pytest.fixture
def plan_file(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(as_text(calibration()))
    return str(file)


def test_a_calibrated_plan_keeps_its_budget_and_is_rendered(plan_file):
    works = []
    for budget in (0.5, 0.8):
        plan = plan_film(storyboard({"file": plan_file, "budget": budget}), model())
        works.append(plan.steps.plan.work(plan.setting))
        assert works[-1] <= budget
        assert plan.storyboard.sampling.accelerate[0].plan is not None, "actors need no file"
    assert works[0] < works[1]
    found, _ = latents(plan)
    assert same(found[:1], plain()[:1]), "the chunk without a past is computed whole"
    assert not same(found[1:], plain()[1:])


def test_a_calibration_measures_what_methods_ask_for():
    for name, values in calibration()["methods"].items():
        plan = plan_film(storyboard({"method": name, **values}), model())
        assert plan.steps.plan.work(plan.setting) <= 1
    probe = calibration()["probe"]["guided video"]
    assert len(probe["blocks"]) == len(probe["keys"]) == len(probe["values"]) == STEPS - 1
    assert {len(step) for kind in ("blocks", "keys", "values") for step in probe[kind]} == {LAYERS}


def test_forecast_errors_are_those_of_the_forecasts():
    steps = [Recorded({"video": torch.tensor([value])}, {"video": torch.zeros(1)}) for value in (1.0, 2.0, 3.0, 9.0)]
    levels = {"video": (1.0, 0.75, 0.5, 0.25, 0.0)}
    errors = ForecastErrors([RecordedChunk(steps, {"video": 2.0})], replace(setting(("guided",)), levels=levels))
    assert errors.of((0, 1), 2) == pytest.approx(0)
    assert errors.of((1, 2), 3) == pytest.approx(0.25 * 5 / 2)


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (["sampling.steps=4"], "calibrated for 6 steps, and the film has 4; set sampling.steps to 6"),
        (["sampling.guidance=1"], "calibrated for the passes guided and unguided"),
        (["sampling.shift=5"], "another schedule of noise levels of the video"),
    ],
)
def test_a_plan_for_something_else_is_refused_with_the_fix(plan_file, further, said):
    with pytest.raises(SpecError) as refused:
        plan_film(storyboard(plan_file, *further), model())
    assert said in str(refused.value)
    assert "longtake calibrate tiny" in str(refused.value)


def test_a_plan_for_other_weights_or_no_plan_is_refused(plan_file, tmp_path):
    other = EmbeddedModel.untrained(replace(TINY, audio_lag=0.75), seed=1)
    with pytest.raises(SpecError, match="was calibrated for weights"):
        plan_film(storyboard(plan_file), other)
    with pytest.raises(SpecError, match="use one of them"):
        plan_film(storyboard({"file": plan_file, "budget": 0.1}), model())
    for content in ("{", "{}", "[]", '{"made_for": {}, "plans": {"x": 1}}'):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(SpecError, match="is no step plan"):
            plan_film(storyboard(str(tmp_path / "plan.json")), model())


@pytest.mark.parametrize(
    ("accelerate", "steps", "said"),
    [
        ("teacache", 6, "no coefficients are published for tiny"),
        ("auto", 6, "6 steps are too few for a step cache to gain anything; streams at rest are frozen"),
        ("auto", 12, "tiny was not calibrated"),
    ],
)
def test_a_model_that_was_not_calibrated_is_named(accelerate, steps, said):
    (note,) = plan_film(storyboard(accelerate, steps=steps), model()).steps.notes
    assert said in note


def test_published_parameters_are_those_of_the_model():
    values, source = published("teacache", "Wan2.1-T2V-1.3B-Diffusers")
    assert (values["threshold"], len(values["polynomial"])) == (0.08, 5)
    assert source == "TeaCache4Wan2.1, threshold of ComfyUI-TeaCache"
    assert published("teacache", "tiny") == ({}, None)


def test_the_shipped_plan_is_that_of_the_built_in_weights():
    board = parse_storyboard(
        "{sampling: {steps: 24, accelerate: auto}, scenes: [{prompt: a red circle, duration: 1s}]}"
    )
    plan = plan_film(board, load_model("sounding-shapes"))
    assert plan.storyboard.sampling.accelerate[0].plan is not None, "it fits weights, steps and noise levels"
    assert plan.steps.plan.work(plan.setting) <= 0.5
