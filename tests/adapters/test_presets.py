"""Films that set nothing get the settings of published scripts; a folder's own file wins; dry runs say from where."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from longtake.jobs.dry_run import _settings
from longtake.pipeline.adapters.ltx2.model import open_folder as open_ltx2
from longtake.pipeline.adapters.presets import LORA_PRESETS, LTX2_NEGATIVE, PRESETS, RECIPES, WAN_NEGATIVE, lora_preset
from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.sampling.schedule import sigmas
from longtake.pipeline.sampling_spec import SamplingSpec
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.testing import ltx2
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from longtake.pipeline.weights.options import LoadOptions

BOARD = "{model: tiny, video: {width: 32, height: 16}, scenes: [{prompt: a red circle, duration: 17f}]}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {
        "Wan2.1-T2V-1.3B-Diffusers": save(tiny_pipeline("2.1"), root / "Wan2.1-T2V-1.3B-Diffusers"),
        "wan2.2-t2v-a14b": save(tiny_pipeline("a14b"), root / "wan2.2-t2v-a14b"),
        "own": save(tiny_pipeline("2.1", shift=7.0), root / "own/Wan2.1-T2V-1.3B"),
        "another": save(tiny_pipeline("2.1"), root / "another"),
        "LTX-2": ltx2.save(root / "LTX-2", "2.0"),
    }


def test_a_published_name_has_its_scripts_settings_and_another_folder_its_files(folders):
    small, two, own, another = (
        open_folder(folders[name], LoadOptions()).defaults
        for name in ("Wan2.1-T2V-1.3B-Diffusers", "wan2.2-t2v-a14b", "own", "another")
    )
    assert (small.steps, small.guidance, small.shift, small.negative) == (50, 6.0, 8.0, WAN_NEGATIVE)
    assert (two.steps, two.guidance, two.guidance_2, two.shift, two.boundary) == (40, 4.0, 3.0, 12.0, 0.875)
    assert (own.steps, own.guidance, own.shift) == (50, 6.0, 7.0), "its own scheduler file wins"
    assert (another.steps, another.guidance, another.shift) == (50, 5.0, 3.0)
    assert "README" in small.sources["shift"]
    assert own.sources["shift"] == another.sources["shift"] == "scheduler_config.json of the folder"


def test_a_published_model_that_is_stored_in_float32_runs_in_bfloat16(folders):
    stored, named = folders["another"], folders["Wan2.1-T2V-1.3B-Diffusers"]
    assert open_folder(stored, LoadOptions()).dtype == torch.float32
    assert open_folder(named, LoadOptions()).dtype == torch.bfloat16
    assert open_folder(named, LoadOptions(dtype=torch.float32)).dtype == torch.float32


def test_ltx2_has_its_own_steps_block_and_schedule(folders):
    defaults = open_ltx2(folders["LTX-2"], LoadOptions()).defaults
    assert (defaults.steps, defaults.guidance.stg_blocks, defaults.negative) == (40, (29,), LTX2_NEGATIVE)
    fixed, by_size = (
        sigmas(SamplingSpec(steps=8, schedule=name), 0.0, defaults.dynamic, video_tokens=13_000)["video"]
        for name in ("fixed", "dynamic")
    )
    assert fixed != by_size
    assert fixed == sigmas(SamplingSpec(steps=8, schedule="dynamic"), 0.0, defaults.dynamic, 4096)["video"]


def test_the_storyboard_wins_and_the_dry_run_says_where_each_setting_is_from(folders):
    model = open_folder(folders["Wan2.1-T2V-1.3B-Diffusers"], LoadOptions())
    plan = plan_film(parse_storyboard(BOARD, ("sampling.steps=7",)), model)
    assert (plan.num_steps, plan.storyboard.sampling.shift) == (7, 8.0)
    console = Console(file=StringIO(), width=400)
    console.print(_settings(plan), highlight=False)
    said = console.file.getvalue()
    assert "steps 7 (storyboard)" in said
    assert "guidance 6, shift 8 (published: Wan2.1 README, --sample_shift 8 --sample_guide_scale 6)" in said
    assert "solver euler (scheduler_config.json of the folder)" in said
    assert "(Wan's own code)" in said


def test_the_negative_prompt_is_the_scenes_the_films_or_the_models(folders):
    model = open_folder(folders["another"], LoadOptions())
    scenes = "scenes=[{prompt: a red circle, duration: 17f}, {prompt: a circle, duration: 17f, negative: blue}]"
    for film, wanted in ((None, [WAN_NEGATIVE, "blue"]), ("a", ["a", "blue"]), ("''", ["", "blue"])):
        overrides = (scenes, *(() if film is None else (f"negative={film}",)))
        plan = plan_film(parse_storyboard(BOARD, overrides), model)
        assert [plan.storyboard.negative_of(scene) for scene in (0, 1)] == wanted
        stage = EmbedStage(model.text, plan)
        told = [stage(chunk).prompts["unguided"].text for chunk in plan.chunks if chunk.index == chunk.scene_start]
        assert told == wanted


def test_a_negative_prompt_that_the_model_cannot_read_is_refused():
    model = EmbeddedModel.untrained(TINY)
    board = "{model: tiny, negative: a purple cow, scenes: [{prompt: a red circle rests, duration: 1s}]}"
    with pytest.raises(ValueError, match="negative: "):
        plan_film(parse_storyboard(board), model)


def test_every_preset_and_recipe_has_a_source():
    assert all(each.source for each in (*PRESETS, *RECIPES.values(), *LORA_PRESETS))
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    recipe = RECIPES["longlive-2"]
    assert (recipe.chunk_latents, recipe.chunk_latents * (recipe.window + recipe.sink + 1)) == (8, 32)


@pytest.mark.parametrize(
    ("file", "steps"),
    [
        ("loras/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", 4),
        ("Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH.safetensors", 4),
        ("ltx-2-19b-distilled-lora-384.safetensors", 8),
        ("style.safetensors", None),
    ],
)
def test_a_step_distilled_lora_brings_its_recipe(file, steps):
    preset = lora_preset([file])
    assert (None if preset is None else preset.settings["steps"]) == steps
