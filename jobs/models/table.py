"""`longtake models`: what is known to render here, and what it asks for."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from longtake.pipeline.adapters.catalogue import ITEM_BYTES, KNOWN, Known, Size
from longtake.pipeline.plan import kv_bytes, plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.weights.licence import terms_of
from longtake.pipeline.weights.load import EMBEDDED, load_model

WISH = "{{model: {name}, sampling: {{guidance: 1}}, scenes: [{{prompt: a red circle rests, duration: 60s}}]}}"

FOOTNOTE = """\
GiB are those of the denoisers in bfloat16 (the embedded models in float32) and of the KV store for one guidance branch;
a guidance other than 1 has two. They stay as they are, however long the film. A denoiser's passes, the text encoder and
the codecs come on top; the latter two belong to other actors. Models of the segment rollout keep no KV store.
Any other folder, repository or URL of these families in diffusers' format is opened as well; see also
`longtake render --help`. Checkpoints are converted first: longtake convert CHECKPOINT OUT --base MODEL."""


def print_models(*, as_json: bool) -> None:
    """Print a row for every model; its sizes are computed here."""
    rows = [*(_embedded(name) for name in EMBEDDED), *(_known(known) for known in KNOWN)]
    if as_json:
        print(json.dumps({"models": rows}))
        return
    table = Table("model", "rollout", "licence", "parameters", "weights", "memory", box=None)
    for row in rows:
        memory = [f"{there['width']}x{there['height']}: {_gib(there['gib'])}" for there in row["memory"]]
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
    held = sum(weight.nbytes for weight in weights)
    storyboard = parse_storyboard(WISH.format(name=name))
    size = (storyboard.video.width, storyboard.video.height)
    memory = _memory(size, held, kv_bytes(plan_film(storyboard, model), model))
    parameters = sum(weight.numel() for weight in weights)
    return _row(name, "embedded", "causal", "apache-2.0", parameters, held, [memory], convert=False)


def _known(known: Known) -> dict[str, Any]:
    parameters = known.num_parameters
    held = ITEM_BYTES * parameters
    memory = [_memory(size, held, known.kv_bytes(size)) for size in known.sizes]
    return _row(
        *(known.name, known.family, known.rollout, known.licence, parameters, held, memory),
        convert=known.recipe is not None,
    )


def _memory(size: Size, weights: int, kv: int) -> dict[str, Any]:
    return {"width": size[0], "height": size[1], "kv_gib": kv / 2**30, "gib": (weights + kv) / 2**30}


def _row(*values: Any, convert: bool) -> dict[str, Any]:
    name, family, rollout, licence, parameters, weights, memory = values
    return {
        "name": name,
        "family": family,
        "rollout": rollout,
        "licence": licence,
        "terms": terms_of(licence),
        "parameters": parameters,
        "weights_gib": weights / 2**30,
        "memory": memory,
        "convert": convert,
    }
