"""`longtake calibrate`: step plans for a model, and a picture of how its passes change from step to step."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.options import Device, Dtype, Json, Offload, Overrides, ProgressMode, Quantize, Threads
from longtake.pipeline.errors import SpecError

if TYPE_CHECKING:
    from longtake.pipeline.models.protocols import TextEncoder

PROMPTS = (
    "A woman in a red coat walks along a beach at sunset, waves rolling in behind her, the camera following her.",
    "A small dog runs through a busy market street, people stepping aside, birds taking off from a roof.",
)
SIMPLE_PROMPTS = (
    "a red circle bounces fast on a dark background",
    "a green triangle glides slow on a light background",
)
"""For models with a closed vocabulary."""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, file, folder, owner/name or URL.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PLAN.json", help="The file to write.")],
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A prompt to calibrate with (default: two of our own). Repeatable."),
    ] = None,
    duration: Annotated[str, typer.Option(help="The length of each film that is rendered for it.")] = "2s",
    overrides: Overrides = None,
    threads: Threads = 1,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = "none",
    progress: ProgressMode = "auto",
    json: Json = False,
) -> None:
    """Measure which passes of a model change little, and write step plans for `longtake render --accelerate PLAN.json`.

    A plan is for the steps, schedule and guidance with which it was measured: those of the model or of --set.

    Next to it a picture shows how much keys, values and blocks change, by layer and step.
    """
    from longtake.jobs.progress import Progress
    from longtake.pipeline.journal.root import check_folder

    if output.suffix != ".json":
        raise SpecError(f"-o is {output}; a plan is a JSON file, use {output.with_suffix('.json')}")
    if output.exists():
        raise SpecError(f"{output} exists and is not overwritten; use another file")
    if not output.absolute().parent.is_dir():
        raise SpecError(f"-o is {output}, and {output.absolute().parent} is no folder; create it first")
    check_folder(output.absolute().parent, str(output))
    feedback = Feedback(progress, json)
    with Progress(feedback, "loading PyTorch") as shown:
        from longtake.actors.load_options import load_options, resolve_device
        from longtake.pipeline.adapters.open import open_model
        from longtake.pipeline.calibrate import as_text, calibrate
        from longtake.pipeline.inspect.steps_picture import draw_steps
        from longtake.pipeline.models.devices import settle
        from longtake.pipeline.spec import parse_storyboard

        load = load_options(dtype, quantize, resolve_device(device, in_process=True, address=None), offload)
        settle(threads, load.device.type)
        shown.phase(f"loading {model}")
        opened = open_model(model, load)
        scenes = [
            {"model": model, "scenes": [{"prompt": prompt, "duration": duration}]}
            for prompt in prompts or _prompts(opened.text)
        ]
        storyboards = [parse_storyboard(_yaml(scene), overrides or ()) for scene in scenes]
        values = calibrate(opened, storyboards, tick=shown.phase)
        output.write_text(as_text(values), encoding="utf-8")
        picture = output.with_suffix(".png")
        picture.write_bytes(draw_steps(values["probe"]))
    feedback.result(_summary(values, output, picture), plan=str(output), picture=str(picture), **_figures(values))


def _prompts(text: "TextEncoder") -> Sequence[str]:
    try:
        for prompt in PROMPTS:
            text.check(prompt)
    except SpecError:
        return SIMPLE_PROMPTS
    return PROMPTS


def _yaml(storyboard: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(storyboard)


def _summary(values: dict[str, Any], output: Path, picture: Path) -> str:
    lines = [f"{output}: step plans for {values['made_for']['model']}; {picture} shows what changes"]
    for budget, work in values["work"].items():
        error = values["error"][budget]
        lines.append(
            f"  budget {budget}: {work:.2f} of the work; error of the picture's latents {error['video']:.3f}, of the"
            f" sound's {error['audio']:.3f}"
        )
    lines.append(f"Use one: longtake render STORYBOARD -o OUT --accelerate {output}")
    return "\n".join(lines)


def _figures(values: dict[str, Any]) -> dict[str, Any]:
    return {"work": values["work"], "error": values["error"]}
