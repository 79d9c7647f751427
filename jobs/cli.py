"""`longtake`: the command line. Heavy libraries are imported by the command that needs them."""

import sys
from json import dumps as quoted
from pathlib import Path
from typing import Annotated

import typer

from longtake.pipeline.errors import LongtakeError, SpecError

app = typer.Typer(
    help="Render films of any length, picture and sound together, with diffusion transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as sampling.steps=4.")
]

Dtype = Annotated[
    str | None, typer.Option(help="Of the weights: float32, bfloat16 or float16; as stored without. Part of the bits.")
]
Quantize = Annotated[
    str | None, typer.Option(help="Keep the denoiser's matrices in 8 bits: int8 or float8. Part of the bits.")
]


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("storyboard.yaml")) -> None:
    """Write a commented storyboard to start from."""
    from longtake.pipeline.spec import STORYBOARD_TEMPLATE

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STORYBOARD_TEMPLATE)
    except FileExistsError:
        raise SpecError(f"{path} exists already; name another file, or remove it first") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error}") from error
    typer.echo(f"Wrote {path}. Next: longtake render {path} -o OUT --dry-run")


@app.command()
def render(
    storyboard: Annotated[str, typer.Argument(help="A storyboard: a path or any fsspec URL.")],
    output: Annotated[str, typer.Option("-o", "--output", help="Where the film goes: a folder or any fsspec URL.")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan only.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew beside a take that is there already.")] = False,
    in_process: Annotated[bool, typer.Option("--in-process", help="Render in this process, without Ray.")] = False,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join; without one, a local one is started.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads; they are part of a film's bits.")] = 1,
    device: Annotated[
        str, typer.Option(help="Where to denoise, decode and upscale: cpu, or cuda, with a GPU for each rank.")
    ] = "cpu",
    budget_mib: Annotated[int, typer.Option(min=1, help="Chunks in flight may weigh this much together.")] = 256,
    chunk_deadline_s: Annotated[
        float, typer.Option("--chunk-deadline", min=1, help="Seconds after which whoever is at one chunk is replaced.")
    ] = 900.0,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks that denoise each chunk together; degrees are proposed.")
    ] = None,
    ulysses: Annotated[int | None, typer.Option(min=1, help="Ranks that share the heads.")] = None,
    ring: Annotated[int | None, typer.Option(min=1, help="Ranks that share the rows of each chunk.")] = None,
    cfg_parallel: Annotated[int | None, typer.Option(min=1, max=2, help="2: guidance passes on ranks apart.")] = None,
    gangs: Annotated[
        int | None, typer.Option(min=1, help="Gangs for scenes that cuts separate, where parallel_scenes is true: 2.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="In place of the storyboard's: a name, file, folder, owner/name, or URL.")
    ] = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Render a storyboard to a film with sound, playable from its first chunk on."""
    from longtake.jobs.render import render_command
    from longtake.jobs.take import GangSpec, RenderOptions
    from longtake.jobs.weights import load_options

    gang, load = GangSpec(ranks, ulysses, ring, cfg_parallel, gangs), load_options(dtype, quantize, device)
    named = () if model is None else (f"model={quoted(model)}",)
    options = RenderOptions(
        *((*named, *(overrides or ())), dry_run, fresh, in_process, threads, address, budget_mib, chunk_deadline_s),
        *(gang, load),
    )
    render_command(storyboard, output, options)


@app.command()
def upscale(
    footage: Annotated[str, typer.Argument(metavar="IN", help="A film that is there: a path or any fsspec URL.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="The file to write: .mp4, .mov or .mkv; a path or URL.")
    ],
    scale: Annotated[int, typer.Option(help="How much larger each side becomes: 2 or 4.")] = 2,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the work: one for each GPU, or each core.")
    ] = None,
    codec: Annotated[str, typer.Option(help="h264, hevc, av1, or ffv1, which is lossless.")] = "h264",
    quality: Annotated[
        int | None, typer.Option(min=0, help="The codec's constant quantiser: smaller is better and larger.")
    ] = None,
    continuity: Annotated[
        str, typer.Option(help="exact; handoff, without warm-up but in sequence; or warmup=N frames, approximate.")
    ] = "exact",
    start: Annotated[str | None, typer.Option(help="Where to begin: 90s, 1m30s, 1:30.5, or 48f for a frame.")] = None,
    end: Annotated[str | None, typer.Option(help="Where to end.")] = None,
    scene_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Change of brightness that makes a cut, in 0..1; 0 looks for none.")
    ] = 0.1,
    segment_frames: Annotated[int, typer.Option(min=1, help="Frames that are made, kept and resumed as one.")] = 128,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only two seconds of the middle, beside a bicubic enlargement.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make everything anew, whatever is kept.")] = False,
    in_process: Annotated[bool, typer.Option("--in-process", help="Work in this process, without Ray.")] = False,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join; without one, a local one is started.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan only.")] = False,
    model: Annotated[
        str,
        typer.Option(
            "--upscaler", "--model", help="An upscaler's name, or the path of its weights: our own, or FlashVSR's."
        ),
    ] = "upscaler",
    threads: Annotated[int, typer.Option(min=1, help="Compute threads of a worker; they are part of the bits.")] = 1,
    segment_deadline_s: Annotated[
        float,
        typer.Option("--segment-deadline", min=1, help="Seconds at one segment after which a worker is replaced."),
    ] = 900.0,
) -> None:
    """Enlarge a film, with all that it came with; any number of workers write the same file."""
    from longtake.jobs.upscale import upscale_command
    from longtake.jobs.upscale.options import UpscaleOptions

    options = UpscaleOptions(
        *(scale, workers, codec, quality, continuity, start, end, scene_threshold, segment_frames),
        *(preview, fresh, in_process, address, dry_run, model, threads, segment_deadline_s),
    )
    upscale_command(footage, output, options)


@app.command()
def submit(
    storyboard: Annotated[
        str, typer.Argument(metavar="STORYBOARD|MANIFEST", help="What to render: a path or fsspec URL.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", help="Where films go, as every node of the cluster sees it.")
    ],
    address: Annotated[
        str,
        typer.Option(
            envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
            help="The cluster's dashboard, such as http://127.0.0.1:8265.",
        ),
    ],
    flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- FLAGS]", help="Handed on to render or batch, such as --ranks 4.")
    ] = None,
    overrides: Overrides = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-wait", help="Print the job's log, and end as it ends; or only say its id.")
    ] = True,
) -> None:
    """Render on a Ray cluster, as a job that goes on when this machine is gone."""
    from longtake.jobs.submit import SubmitOptions, submit_command

    options = SubmitOptions(address, output, tuple(overrides or ()), tuple(flags or ()), follow)
    if code := submit_command(storyboard, options):
        raise typer.Exit(code)


@app.command()
def batch(
    manifest: Annotated[
        str, typer.Argument(help="Takes to render: YAML, JSON Lines or CSV; a path or any fsspec URL.")
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="ROOT", help="Where films and ledger go; out/NAME without.")
    ] = None,
    gangs: Annotated[int, typer.Option(min=1, help="Gangs that render side by side, one take at a time each.")] = 1,
    max_parallel: Annotated[int | None, typer.Option(min=1, help="Never more takes at once than this.")] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of a gang, for takes that do not say.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads; they are part of a film's bits.")] = 1,
    device: Annotated[
        str, typer.Option(help="Where to denoise, decode and upscale: cpu, or cuda, with a GPU for each rank.")
    ] = "cpu",
    retries: Annotated[int, typer.Option(min=0, help="How often a take that fails is tried again.")] = 2,
    backoff_s: Annotated[
        float, typer.Option("--backoff", min=0, help="Seconds before the first retry; doubled for every further one.")
    ] = 2.0,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try takes again that were given up.")
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="What a gang costs an hour; the report says what films cost.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join; without one, a local one is started.")
    ] = None,
    budget_mib: Annotated[
        int, typer.Option(min=1, help="Chunks in flight may weigh this much together, by gang.")
    ] = 256,
    chunk_deadline_s: Annotated[
        float, typer.Option("--chunk-deadline", min=1, help="Seconds after which whoever is at one chunk is replaced.")
    ] = 900.0,
    overrides: Overrides = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Render the takes of a manifest, several at once; again, and what is done is left alone.

    Exit codes: 0 all done, 1 some takes failed, 2 the manifest has mistakes, 130 interrupted.
    """
    from longtake.jobs.batch import BatchOptions, batch_command
    from longtake.jobs.batch.scheduler import Retries

    again = Retries(retries, backoff_s)
    options = BatchOptions(
        *(gangs, max_parallel, ranks, threads, again, retry_quarantined, price_per_hour, address, budget_mib),
        *(chunk_deadline_s, tuple(overrides or ()), dtype, quantize, device),
    )
    if code := batch_command(manifest, output, options):
        raise typer.Exit(code)


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="What to learn: codec, denoiser, rollout or upscaler.")],
    config: Annotated[str, typer.Option("--config", help="How: a YAML file; configs/ holds some.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="RUN_DIR", help="A folder that every worker sees.")],
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option(help="Clips to learn from: a folder or any fsspec URL; without, shapes are drawn.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew beside a run that is there already.")] = False,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join; without one, a local one is started.")
    ] = None,
) -> None:
    """Train a model; Ctrl-C keeps what was done, and the same command goes on there."""
    from longtake.jobs.train import TrainOptions, train_command

    train_command(stage, config, output, TrainOptions(tuple(overrides or ()), data, fresh, address))


@app.command()
def models(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line.")] = False,
) -> None:
    """List models that are known to render here: licence, size, and memory by resolution."""
    from longtake.jobs.models import print_models

    print_models(as_json=json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A published checkpoint, or FlashVSR's folder.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A folder for Wan's; else a file, *.safetensors.")],
    base: Annotated[
        str | None, typer.Option(help="The model that the checkpoint was trained from: its other parts come along.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Whose causal weights: self-forcing, longlive or causvid; found out where said.")
    ] = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA to merge, such as LongLive's lora.pt.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(min=0, help="Its strength; its rank without.")] = None,
    state: Annotated[str | None, typer.Option(help="The checkpoint's key, such as generator.")] = None,
    variant: Annotated[str | None, typer.Option(help="FlashVSR's: v1 or v1.1; found out where its files say.")] = None,
    dtype: Dtype = None,
) -> None:
    """Make safetensors of a published checkpoint; a pickle is read as tensors only, and runs nothing."""
    from longtake.jobs.convert import ConvertSpec, convert_command

    convert_command(source, output, ConvertSpec(base, recipe, lora, lora_alpha, state, variant, dtype))


@app.command()
def doctor(
    output: Annotated[str, typer.Option("-o", "--output", help="The output root to try; nothing stays in it.")] = "out",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line.")] = False,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Start a Ray cluster here: up to 10 s.")] = True,
) -> None:
    """Try what a render needs here: versions, GPUs, Ray, codecs, the output; with the cure for what fails."""
    from longtake.jobs.doctor import run_doctor

    if not run_doctor(output, ray=ray, as_json=json):
        raise typer.Exit(1)


Take = Annotated[str, typer.Argument(metavar="OUT", help="Where a film was rendered to: a folder or any fsspec URL.")]


@app.command()
def status(
    output: Take,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, once a second, until the render has ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Say how far a render is: acts, scenes, speed, time left."""
    from longtake.jobs.status import print_status

    print_status(output, watch=watch, as_json=json)


@app.command()
def cancel(
    output: Take,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until it has let go.")] = 30.0,
) -> None:
    """Ask the render that owns OUT to stop in order, from any machine; what is finished is kept."""
    from longtake.jobs.cancel import cancel_command

    cancel_command(output, wait_s)


@app.command()
def clean(
    output: Take,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
) -> None:
    """Remove what dead attempts left: data that no manifest names, unfinished files, scratch."""
    from longtake.jobs.clean import print_cleaned

    print_cleaned(output, dry_run=dry_run)


@app.command()
def watch(
    output: Take,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on this machine; 0 for any free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Show a take in the browser while it is rendered, on this machine only."""
    from longtake.jobs.watch import watch as serve

    serve(output, port, open_browser=not no_open)


@app.command()
def inspect(
    film: Annotated[str, typer.Argument(metavar="FILM_OR_TAKE", help="A film, or where one was rendered to.")],
    against: Annotated[str | None, typer.Option(metavar="OTHER", help="A film to compare it with.")] = None,
    chunk: Annotated[str | None, typer.Option(help="How long a chunk is, such as 1s; a take knows.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Write a page with drawings too.")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a contact sheet too.")] = None,
) -> None:
    """Measure a film: counts, seams, drift, sync, loudness, and what sounding shapes show."""
    from longtake.jobs.inspect import inspect_command

    inspect_command(film, against, chunk, as_json=json, html=html, sheet=sheet)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="Which bench; see --list.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line, last.")] = False,
    list_keys: Annotated[bool, typer.Option("--list", help="Explain every bench and every figure.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The same limits with smaller work.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Repeats; figures are medians.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    ranks: Annotated[int | None, typer.Option(min=2, help="Ranks of benches that compare gangs.")] = None,
) -> None:
    """Measure a promise, and fail when a figure misses its limit."""
    from longtake.jobs.bench import BenchOptions, list_benches, run_bench

    if list_keys or name is None:
        list_benches()
    elif not run_bench(name, BenchOptions(repeat=repeat, seed=seed, quick=quick, ranks=ranks), as_json=json):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, or `arguments` in its place; an error raised on purpose is one message, no stack trace.

    Exit codes: 0 done, 1 failed, 2 the wish or the call is wrong, 130 interrupted.
    """
    try:
        app(arguments)
    except LongtakeError as error:
        cause = getattr(error, "cause", error)  # without the stack trace that Ray sends along
        typer.secho(f"longtake: {cause}", err=True, fg="red")
        sys.exit(2 if isinstance(error, SpecError) else 1)


if __name__ == "__main__":
    main()
