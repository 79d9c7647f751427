"""The list of `longtake models`: the models that longtake renders, with their licence, size and memory."""

import json
from typing import Any

from rich.text import Text

from longtake.jobs.feedback import plain_console
from longtake.pipeline.adapters.catalogue import KNOWN, Known
from longtake.pipeline.weights.licence import terms_of

FOOTNOTE = """\
Memory is that of the denoiser's weights in bfloat16 (built-in models: float32) and of the KV store for one guidance
branch; a guidance other than 1 needs two. It does not grow with the length of the film. The activations of a pass need
memory too; text encoder and codecs are in other processes. Segment rollouts have no KV store.
Any folder, repository or URL of these families in diffusers' format can be rendered as well: see
`longtake render --help`. Convert other checkpoints first: longtake convert CHECKPOINT OUT --base MODEL."""


def print_models(*, as_json: bool) -> None:
    """Print each model with its parts. Names are never cut, however narrow the terminal is."""
    rows = [_row(known) for known in KNOWN]
    if as_json:
        print(json.dumps({"models": rows}))
        return
    console = plain_console()
    for row in rows:
        console.print(Text.assemble((row["name"], "bold"), " (convert first)" if row["convert"] else ""))
        parts = ", ".join(f"{name} {_count(number)}" for name, number in row["parts"].items())
        console.print(f"  {row['rollout']} rollout, {row['licence']}")
        console.print(f"  {_count(row['parameters'])} parameters: {parts}")
        memory = ", ".join(f"{one['width']}x{one['height']}: {_gib(one['gib'])}" for one in row["memory"])
        console.print(f"  weights {_gib(row['weights_gib'])}; memory for {memory}")
        if row["terms"]:
            console.print(f"  {row['terms']}", style="yellow")
    console.print(f"\n{FOOTNOTE}")


def _gib(size: float) -> str:
    return f"{size:.1f} GiB" if size >= 1 else f"{size * 1024:.1f} MiB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _row(known: Known) -> dict[str, Any]:
    return {
        "name": known.name,
        "family": known.family,
        "rollout": known.rollout,
        "licence": known.licence,
        "terms": terms_of(known.licence),
        "parameters": known.num_parameters,
        "parts": dict(known.parts),
        "weights_gib": known.item_bytes * known.num_parameters / 2**30,
        "memory": [
            {
                "width": width,
                "height": height,
                "kv_gib": kv_bytes / 2**30,
                "gib": (known.denoiser_bytes + kv_bytes) / 2**30,
            }
            for (width, height), kv_bytes in known.kv_bytes.items()
        ],
        "convert": known.recipe is not None,
    }
