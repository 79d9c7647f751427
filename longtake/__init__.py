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
        Cancelled as Cancelled,
        CapacityError as CapacityError,
        EncodingError as EncodingError,
        JournalError as JournalError,
        KernelError as KernelError,
        LongtakeError as LongtakeError,
        MediaError as MediaError,
        NumericsError as NumericsError,
        PoisonError as PoisonError,
        ShapeError as ShapeError,
        SpecError as SpecError,
        StartError as StartError,
        WeightsError as WeightsError,
    )
    from longtake.pipeline.inspect.report import Inspection as Inspection
    from longtake.pipeline.observe import Observer as Observer
    from longtake.pipeline.spec import Storyboard as Storyboard
    from longtake.pipeline.stages.publish import Film as Film
    from longtake.rendering import RenderOptions as RenderOptions, render as render
    from longtake.streaming import Chunk as Chunk, stream as stream
    from longtake.upscaling import upscale as upscale

_ERRORS = (
    *("ActorLost", "Cancelled", "CapacityError", "EncodingError", "JournalError", "KernelError"),
    *(
        "LongtakeError",
        "MediaError",
        "NumericsError",
        "PoisonError",
        "ShapeError",
        "SpecError",
        "StartError",
        "WeightsError",
    ),
)
_HOMES = {
    **dict.fromkeys(_ERRORS, "pipeline.errors"),
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
