"""What a storyboard or a model's folder may name, and where each of them is implemented.

A target is "module:name" and is imported when it is used, so the names are known without torch. A new solver, schedule
or model family is one new file and one line here.
"""

from collections.abc import Iterable, Mapping
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
}
"""`sampling.schedule` of a storyboard -> a `sampling.schedule.Schedule`."""

FAMILIES: Mapping[str, str] = {
    "WanPipeline": "longtake.pipeline.adapters.wan.model:open_folder",
    "WanImageToVideoPipeline": "longtake.pipeline.adapters.wan.model:open_folder",
    "LTX2Pipeline": "longtake.pipeline.adapters.ltx2.model:open_folder",
    "LTX2ImageToVideoPipeline": "longtake.pipeline.adapters.ltx2.model:open_folder",
    "LTX2ConditionPipeline": "longtake.pipeline.adapters.ltx2.model:open_folder",
}
"""`_class_name` of a model index -> a function (folder, load options) -> `models.protocols.FilmModel`."""


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
