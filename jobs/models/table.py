"""The table of `longtake models`: the models that longtake renders, with their licence, size and memory."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from longtake.pipeline.adapters.catalogue import ITEM_BYTES, KNOWN, Known, Size
from longtake.pipeline.plan import kv_bytes, plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.weights.licence import terms_of
from longtake.pipeline.weights.load import EMBEDDED, load_model

STORYBOARD = "{{model: {name}, sampling: {{guidance: 1}}, scenes: [{{prompt: a red circle rests, duration: 60s}}]}}"

FOOTNOTE = """\
Memory is that of the denoiser's weights in bfloat16 (built-in models: float32) and of the KV store for one guidance
branch; a guidance other than 1 needs two. It does not grow with the length of the film. The activations of a pass, the
text encoder and the codecs need memory too; the latter two are in other actors. Segment rollouts have no KV store.
Any folder, repository or URL of these families in diffusers' format can be rendered as well: see
`longtake render --help`. Convert other checkpoints first: longtake convert CHECKPOINT OUT --base MODEL."""


def print_models(*, as_json: bool) -> None:
    """Print one row for each model; its sizes are computed from its configuration."""
    rows = [*(_embedded(name) for name in EMBEDDED), *(_known(known) for known in KNOWN)]
    if as_json:
        print(json.dumps({"models": rows}))
        return
    table = Table("model", "rollout", "licence", "parameters", "weights", "memory", box=None)
    for row in rows:
        memory = [f"{one['width']}x{one['height']}: {_gib(one['gib'])}" for one in row["memory"]]
        name = f"{row['name']} (convert)" if row["convert"] else row["name"]
        sizes = (_count(row["parameters"]), _gib(row["weights_gib"]))
        table.add_row(name, row["rollout"], row["licence"], *sizes, "\n".join(memory))
    console = Console(highlight=False)
    console.print(table)
    for row in rows:
        if row["terms"]:
            console.print(f"[yellow]{row['name']}: {row['terms']}.")
    console.print(FOOTNOTE)


def _gib(size: float) -> str:
    return f"{size:.1f} GiB" if size >= 1 else f"{size * 1024:.1f} MiB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _embedded(name: str) -> dict[str, Any]:
    model = load_model(name)
    weights = list(model.parameters())
    weights_bytes = sum(weight.nbytes for weight in weights)
    storyboard = parse_storyboard(STORYBOARD.format(name=name))
    size = (storyboard.video.width, storyboard.video.height)
    memory = _memory(size, weights_bytes, kv_bytes(plan_film(storyboard, model), model))
    parameters = sum(weight.numel() for weight in weights)
    return _row(
        name=name,
        family="embedded",
        rollout="causal",
        licence="apache-2.0",
        parameters=parameters,
        weights_bytes=weights_bytes,
        memory=[memory],
        convert=False,
    )


def _known(known: Known) -> dict[str, Any]:
    parameters = known.num_parameters
    weights_bytes = ITEM_BYTES * parameters
    memory = [_memory(size, weights_bytes, known.kv_bytes(size)) for size in known.sizes]
    return _row(
        name=known.name,
        family=known.family,
        rollout=known.rollout,
        licence=known.licence,
        parameters=parameters,
        weights_bytes=weights_bytes,
        memory=memory,
        convert=known.recipe is not None,
    )


def _memory(size: Size, weights: int, kv: int) -> dict[str, Any]:
    return {"width": size[0], "height": size[1], "kv_gib": kv / 2**30, "gib": (weights + kv) / 2**30}


def _row(
    *,
    name: str,
    family: str,
    rollout: str,
    licence: str,
    parameters: int,
    weights_bytes: int,
    memory: list[dict[str, Any]],
    convert: bool,
) -> dict[str, Any]:
    return {
        "name": name,
        "family": family,
        "rollout": rollout,
        "licence": licence,
        "terms": terms_of(licence),
        "parameters": parameters,
        "weights_gib": weights_bytes / 2**30,
        "memory": memory,
        "convert": convert,
    }
