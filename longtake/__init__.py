"""Render long films, picture and sound together, with diffusion transformers on a Ray cluster.

    import longtake

    film = longtake.render("film.yaml", "out/film")
    for chunk in longtake.stream("film.yaml", "out/film"): ...
    longtake.upscale("film.mp4", "large.mp4", scale=2)
    print(longtake.inspect("out/film").grade)

`with longtake.cluster(): ...` keeps one Ray cluster for several calls. Errors are subclasses of `LongtakeError`. Names
are imported when they are first used, so `import longtake` is quick and needs neither torch nor Ray.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtake.batching import batch as batch
    from longtake.clusters import cluster as cluster
    from longtake.inspection import inspect as inspect
    from longtake.models import open_model as open_model
    from longtake.pipeline.errors import (
        ActorLost as ActorLost,
    )
    from longtake.pipeline.errors import (
        Cancelled as Cancelled,
    )
    from longtake.pipeline.errors import (
        CapacityError as CapacityError,
    )
    from longtake.pipeline.errors import (
        JournalError as JournalError,
    )
    from longtake.pipeline.errors import (
        LongtakeError as LongtakeError,
    )
    from longtake.pipeline.errors import (
        MediaError as MediaError,
    )
    from longtake.pipeline.errors import (
        PoisonError as PoisonError,
    )
    from longtake.pipeline.errors import (
        SpecError as SpecError,
    )
    from longtake.pipeline.errors import (
        WeightsError as WeightsError,
    )
    from longtake.pipeline.inspect.report import Inspection as Inspection
    from longtake.pipeline.observe import Observer as Observer
    from longtake.pipeline.spec import Storyboard as Storyboard
    from longtake.pipeline.stages.publish import Film as Film
    from longtake.rendering import RenderOptions as RenderOptions
    from longtake.rendering import render as render
    from longtake.streaming import Chunk as Chunk
    from longtake.streaming import stream as stream
    from longtake.upscaling import upscale as upscale

_ERRORS = ("ActorLost", "Cancelled", "CapacityError", "JournalError", "LongtakeError", "MediaError", "PoisonError")
_HOMES = {
    **dict.fromkeys((*_ERRORS, "SpecError", "WeightsError"), "pipeline.errors"),
    "Chunk": "streaming",
    "Film": "pipeline.stages.publish",
    "Inspection": "pipeline.inspect.report",
    "Observer": "pipeline.observe",
    "RenderOptions": "rendering",
    "Storyboard": "pipeline.spec",
    "batch": "batching",
    "cluster": "clusters",
    "inspect": "inspection",
    "open_model": "models",
    "render": "rendering",
    "stream": "streaming",
    "upscale": "upscaling",
}
"""Public names and the modules that define them."""

__all__ = sorted(_HOMES)  # noqa: PLE0605  the names are those of the table

# Installed, the folders `pipeline`, `actors` and `jobs` lie inside this one; in a checkout they lie next to it.
if not Path(__path__[0], "pipeline").is_dir():
    __path__.append(str(Path(__path__[0]).parent))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longtake' has no attribute {name!r}")
    return getattr(import_module(f"longtake.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
