"""A LoRA is trained next to a frozen model, saved under published keys, and renders what it was trained on."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from longtake.jobs.bench.lora import RECIPE
from longtake.pipeline.adapters.loras import open_loras
from longtake.pipeline.errors import SpecError
from longtake.pipeline.inspect.shapes import read
from longtake.pipeline.models.adapted import detach
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.training.data import World, draw_frames
from longtake.pipeline.training.lora import LoraTask
from longtake.pipeline.training.mixed import MixedClips
from longtake.pipeline.training.spec import TrainSpec, load_train_spec
from longtake.pipeline.training.tasks import check_options
from longtake.pipeline.training.world import TAUGHT_CAPTIONS, Caption, draw_moves
from longtake.pipeline.weights.load import load_model, save_model

SPEC = {"stage": "lora", "steps": 10, "batch_size": 2, "lr": 1e-2, "model": "tiny", "dtype": "float32"}


def spec(**options) -> TrainSpec:
    return TrainSpec(**SPEC, options={"chunks": 2, "copies": 1, **options})


def task(**options) -> LoraTask:
    return LoraTask(spec(**options), EmbeddedModel.untrained(TINY, seed=1), World("red yellow"), World())


def test_the_recipe_is_what_the_bench_trains():
    assert load_train_spec("configs/cpu/lora.yaml") == TrainSpec.model_validate(RECIPE)


def test_only_the_changes_are_trained_and_a_step_lowers_the_loss_of_the_same_batch():
    training = task()
    trained = {name for name, weight in training.objective.named_parameters() if weight.requires_grad}
    assert trained
    assert all(name.startswith("changes.") for name in trained)
    batch, losses = training.draw(0, 0, 0, 2), []
    optimizer = torch.optim.AdamW([w for w in training.objective.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(4):
        torch.manual_seed(0)
        loss = training.objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_the_file_changes_the_model_as_training_did(tmp_path):
    training = task(rank=3, layers="blocks.*.video.*,embeds.*.text")
    with torch.no_grad():
        for weight in training.objective.changes.parameters():
            weight.normal_(std=0.1)
    file = tmp_path / "lora.safetensors"
    save_model(
        task(rank=3, layers="blocks.*.video.*,embeds.*.text").finished(training.objective.state_dict()), str(file)
    )
    with safe_open(file, "pt") as opened:
        metadata, keys = opened.metadata(), set(opened.keys())
    assert "transformer.blocks.1.video.out.lora_A.weight" in keys
    assert json.loads(metadata["lora_adapter_metadata"])["transformer.r"] == 3
    board = parse_storyboard(
        f"{{model: tiny, loras: [{{file: {file}}}], scenes: [{{prompt: a red circle, duration: 1s}}]}}"
    )
    model = EmbeddedModel.untrained(TINY, seed=1)
    (loras,) = open_loras(board, model).attach(text=False)
    loras.use(0, 1.0)
    torch.manual_seed(1)
    batch = training.draw(0, 0, 0, 2)
    outputs = []
    for network in (training.objective.model, model):
        training.objective.model = network
        torch.manual_seed(0)
        outputs.append(float(training.objective(batch)["loss"].detach()))
    detach(model.denoiser)
    torch.manual_seed(0)
    assert outputs[0] == pytest.approx(outputs[1], abs=1e-6)
    assert float(training.objective(batch)["loss"].detach()) != pytest.approx(outputs[0], abs=1e-3)


def test_clips_to_keep_are_those_of_the_world_and_a_fixed_share_of_every_step():
    source = MixedClips(World("red yellow"), World(), keep=0.25)
    numbers = range(8)
    assert sum(source.is_kept(number) for number in numbers) == 2
    clips, plain = source.draw((1, 2), numbers, 1), World().draw((1, 2), numbers, 1)
    for number in numbers:
        same = torch.equal(clips.frames[number], plain.frames[number])
        assert same == source.is_kept(number)
        assert clips.prompts[number].startswith("red yellow") != source.is_kept(number)
    second = source.draw((1, 2), numbers[4:], 1)
    assert torch.equal(second.frames, clips.frames[4:])


def test_only_clips_to_keep_may_be_without_a_prompt():
    words = task(no_text=1.0).draw(0, 0, 0, 2)["words"]
    assert words.any(dim=1).tolist() == [True, False]


@pytest.mark.parametrize("background", ["dark", "light"])
def test_the_inspector_reads_the_colour_that_is_taught(background):
    caption = Caption("red yellow", "circle", "bounces fast", background)
    assert Caption.parse(str(caption)) == caption
    assert str(caption).startswith("red yellow circle")
    frames, _ = draw_frames([draw_moves(np.random.default_rng(0), caption)], 16)
    pixels = ((frames[0] + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    assert read(pixels, 16).colour == "red yellow"


def test_the_model_reads_every_caption_of_the_colour():
    model = load_model("tiny")
    assert len(TAUGHT_CAPTIONS) == 36
    for caption in TAUGHT_CAPTIONS:
        model.text.check(str(caption))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "options.rank is 0; use 1 to 1024"),
        ({"rank": "four"}, "options.rank is 'four'; .*integer"),
        ({"keep": 1.0}, "options.keep is 1; use 0 or more, and less than 1"),
        ({"colour": "pink"}, "options.colour is 'pink'; use 'red yellow', or data"),
        (
            {"layers": "attn.*"},
            r"options.layers is 'attn\.\*'; no layer matches 'attn\.\*', they are called embeds.video.rows, ",
        ),
        ({"ranks": 4}, "options.ranks is not an option of this stage; it has .*rank"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_workers_start(options, message):
    with pytest.raises(SpecError, match=message):
        check_options(TrainSpec(**SPEC, options=options))


def test_unknown_options_of_the_denoiser_are_refused_too():
    with pytest.raises(SpecError, match=r"options\.copy is not an option of this stage"):
        check_options(TrainSpec(**{**SPEC, "stage": "denoiser"}, options={"copy": 1}))
