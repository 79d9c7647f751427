"""What a storyboard or a model's folder may name, and where each of them is implemented.

A target is "module:name" and is imported when it is used, so the names are known without torch. A new solver, schedule,
model family or stage is one new file and one line here; a stage is also called in the two loops, `pipeline/film.py` and
`actors/film.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SOLVERS: Mapping[str, str] = {
    "euler": "longtake.pipeline.sampling.solver:Euler",
    "renoise": "longtake.pipeline.sampling.solver:Renoise",
    "unipc": "longtake.pipeline.adapters.unipc:UniPC",
}
"""`sampling.solver` of a storyboard -> a `sampling.solver.Solver`."""

SCHEDULES: Mapping[str, str] = {
    "shifted": "longtake.pipeline.sampling.schedule:Shifted",
    "linear": "longtake.pipeline.sampling.schedule:Linear",
    "dynamic": "longtake.pipeline.sampling.schedule:Dynamic",
    "full": "longtake.pipeline.sampling.schedule:Full",
    "fixed": "longtake.pipeline.sampling.schedule:Fixed",
}
"""`sampling.schedule` of a storyboard -> a `sampling.schedule.Schedule`."""

METHODS: Mapping[str, str] = {
    "freeze": "longtake.pipeline.sampling.step_methods:FreezeStreams",
    "spare-openings": "longtake.pipeline.sampling.step_methods:SpareOpenings",
    "guidance-interval": "longtake.pipeline.sampling.step_methods:GuidanceInterval",
    "guidance-difference": "longtake.pipeline.sampling.step_methods:GuidanceDifference",
    "taylorseer": "longtake.pipeline.sampling.step_methods:TaylorSeer",
    "spectrum": "longtake.pipeline.sampling.step_methods:Spectrum",
    "delta-dit": "longtake.pipeline.sampling.step_methods:DeltaDiT",
    "faster-diffusion": "longtake.pipeline.sampling.step_methods:FasterDiffusion",
    "smoothcache": "longtake.pipeline.sampling.step_methods:SmoothCache",
    "mixcache": "longtake.pipeline.sampling.step_methods:MixCache",
    "magcache": "longtake.pipeline.sampling.step_methods:MagCache",
    "teacache": "longtake.pipeline.sampling.step_methods:TeaCache",
    "easycache": "longtake.pipeline.sampling.step_methods:EasyCache",
    "fbcache": "longtake.pipeline.sampling.step_methods:FBCache",
    "dbcache": "longtake.pipeline.sampling.step_methods:DBCache",
}
"""`sampling.accelerate` of a storyboard -> a `sampling.step_methods.Method`."""

FAMILIES: Mapping[str, str] = {
    "WanPipeline": "longtake.pipeline.adapters.wan.model:open_folder",
    "WanImageToVideoPipeline": "longtake.pipeline.adapters.wan.model:open_folder",
    "LTX2Pipeline": "longtake.pipeline.adapters.ltx2.model:open_folder",
    "LTX2ImageToVideoPipeline": "longtake.pipeline.adapters.ltx2.model:open_folder",
    "LTX2ConditionPipeline": "longtake.pipeline.adapters.ltx2.model:open_folder",
}
"""`_class_name` of a model index -> a function (folder, load options) -> `models.protocols.FilmModel`."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of the pipeline: how it is built, and what its actor asks Ray for.

    Args:
        builder: "module:name" of a function (take, observer) -> what runs the stage on a chunk.
        cpus: the actor's share of a core; None: as many cores as it has compute threads, for each rank.
        gpus: the share of a GPU of an actor that computes on one. A rank has most of one to itself; a decoder and an
            upscaler use the rest.
        num_returns: how many values it returns for a chunk.
        asked_by: the key of the storyboard without which a film does not have the stage.
    """

    builder: str
    cpus: float | None
    gpus: float = 0.0
    num_returns: int = 1
    asked_by: str | None = None


STAGES: Mapping[str, StageSpec] = {
    "embed": StageSpec("longtake.pipeline.acts:embed", cpus=0.1),
    "denoise": StageSpec("longtake.pipeline.acts:denoise", cpus=None, gpus=0.7),
    "decode": StageSpec("longtake.pipeline.acts:decode", cpus=0.4, gpus=0.2, num_returns=2),
    "upscale": StageSpec("longtake.pipeline.acts:upscale", cpus=0.5, gpus=0.1, asked_by="output.upscale"),
    "encode": StageSpec("longtake.pipeline.acts:encode", cpus=0.3),
    "publish": StageSpec("longtake.pipeline.acts:publish", cpus=0.2),
}
"""All stages, in the order of the pipeline."""


def resolve(target: str) -> Any:
    """What "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def module_of(target: str) -> str:
    """The module of "module:name"."""
    return target.partition(":")[0]


def same_target(names: Mapping[str, str], target: str) -> tuple[str, ...]:
    """The names that mean `target`."""
    return tuple(name for name, each in names.items() if each == target)


def alternatives(names: Iterable[str]) -> str:
    """Names as an error lists them: 'a', 'b' or 'c'."""
    *others, last = (repr(name) for name in names)
    return f"{', '.join(others)} or {last}" if others else last
