"""From `sampling.accelerate` of a storyboard to a step plan: methods by name, their presets, and calibrated plans."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib.resources import files
from typing import Any, cast

from longtake.pipeline.errors import SpecError
from longtake.pipeline.registry import METHODS, resolve
from longtake.pipeline.sampling.step_cache import EVERYTHING
from longtake.pipeline.sampling.step_methods import Method
from longtake.pipeline.sampling.step_plan import Plan, Setting, Stacked, Table
from longtake.pipeline.sampling.step_presets import AUTO, automatic, published
from longtake.pipeline.sampling_spec import AccelerateSpec
from longtake.pipeline.yaml_spec import read_text

SHIPPED = "longtake.pipeline.sampling.plans"
"""The folder of the plans that come with longtake, each named like its model and its steps."""

GUIDANCE_METHODS = ("guidance-interval", "guidance-difference")

CLOSE = 1e-6
"""Noise levels that differ by less are the same."""


@dataclass(frozen=True)
class Accelerated:
    """What a storyboard asks for.

    Args:
        plan: of all entries together.
        entries: the same in full: every parameter written out, and calibrated plans in place of their files.
        notes: what the user should know.
    """

    plan: Plan = EVERYTHING
    entries: tuple[AccelerateSpec, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """The weights that a film is rendered with: the model's name, and a checksum."""

    model: str
    checksum: str


def accelerated(wanted: Sequence[AccelerateSpec], setting: Setting, weights: Weights) -> Accelerated:
    """The plan for a setting.

    Raises:
        SpecError: a parameter is wrong, a plan was calibrated for something else, or two plans exclude each other.
    """
    entries: list[AccelerateSpec] = []
    notes: list[str] = []
    for entry in wanted:
        full, said = _in_full(entry, setting, weights)
        entries += full
        notes += said
    table, adaptive = Table({}), dict[str, Plan]()
    for entry in sorted(entries, key=lambda entry: entry.method in GUIDANCE_METHODS):  # they count computed steps
        plan = _plan(entry, replace(setting, skipped=table.skipped(setting)))
        if isinstance(plan, Table):
            table = plan.over(table)
        else:
            adaptive[str(entry.method)] = plan
    if len(adaptive) > 1:
        raise SpecError(f"sampling.accelerate: {' and '.join(adaptive)} both decide while they render; use one of them")
    whole: Plan = EVERYTHING if table.is_empty else table
    for plan in adaptive.values():
        whole = Stacked(table, plan)
    return Accelerated(whole, tuple(entries), tuple(notes))


def _in_full(
    entry: AccelerateSpec, setting: Setting, weights: Weights
) -> tuple[Sequence[AccelerateSpec], Sequence[str]]:
    if entry.plan is not None:
        return [entry], []
    if entry.file is not None:
        return [AccelerateSpec(plan=_calibrated(entry, setting, weights))], []
    assert entry.method is not None
    if entry.method == AUTO:
        if (shipped := _shipped(entry, setting, weights)) is not None:
            return [AccelerateSpec(plan=shipped)], []
        chosen, why = automatic(setting, weights.model)
        return [each for name, values in chosen for each in _in_full(_entry(name, values), setting, weights)[0]], [why]
    values, source = published(entry.method, weights.model)
    method = _method(entry.method, {**values, **entry.parameters})
    notes = [] if source is None else [f"{entry.method}: parameters from {source}"]
    if entry.method == "teacache" and source is None and "polynomial" not in entry.parameters:
        notes = [f"teacache: no coefficients are published for {weights.model}; changes are added up as they are"]
    return [_entry(entry.method, asdict(cast(Any, method)))], notes


def _entry(name: str, values: Mapping[str, Any]) -> AccelerateSpec:
    return AccelerateSpec.model_validate({"method": name, **json.loads(json.dumps(values))})


def _plan(entry: AccelerateSpec, setting: Setting) -> Plan:
    if entry.plan is not None:
        return Table.load(entry.plan)
    assert entry.method is not None
    try:
        return _method(entry.method, entry.parameters).plan(setting)
    except SpecError as error:
        raise SpecError(f"sampling.accelerate: {entry.method}: {error}") from None


def _method(name: str, values: Mapping[str, Any]) -> Method:
    """A method with these parameters; those that are left out have the defaults of its paper."""
    kind = resolve(METHODS[name])
    known = {field.name: field for field in fields(kind)}
    checked = {}
    for key, value in values.items():
        if key not in known:
            allowed = f"it has {', '.join(known)}" if known else "it has no parameters"
            raise SpecError(f"sampling.accelerate: {name} has no parameter {key!r}; {allowed}")
        default = known[key].default
        assert default is not MISSING
        checked[key] = _checked(f"sampling.accelerate: {name}: {key}", value, default)
    return cast(Method, kind(**checked))


def _checked(key: str, value: Any, default: Any) -> Any:
    """A value of the same type as the default."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(_checked(key, each, default[0] if default else 0.0) for each in value)
    if isinstance(value, list | tuple) and default == 0.0:  # a list of lists
        return tuple(_checked(key, each, 0.0) for each in value)
    if isinstance(default, str) and isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int) and number and value == int(value) and 0 <= value <= 1000:
        return int(value)
    if isinstance(default, float) and number and abs(value) < float("inf"):
        return float(value)
    kind = {str: "a word", int: "a whole number from 0 to 1000", tuple: "a list of numbers"}
    raise SpecError(f"{key} is {value!r}; use {kind.get(type(default), 'a number')}")


# ------------------------------------------------------------------ calibrated plans


def _calibrated(entry: AccelerateSpec, setting: Setting, weights: Weights) -> dict[str, Any]:
    """The table of a file that `longtake calibrate` wrote, for the budget that is asked for."""
    file = str(entry.file)
    where = f"sampling.accelerate: {file}"
    return _table_of(
        where, read_text(file, "write it with longtake calibrate MODEL -o PLAN.json"), entry, setting, weights
    )


def _shipped(entry: AccelerateSpec, setting: Setting, weights: Weights) -> dict[str, Any] | None:
    """The table that is shipped for exactly these weights, steps and noise levels; None if there is none."""
    for file in files(SHIPPED).iterdir():
        if file.name.startswith(f"{weights.model}-") and file.name.endswith(".json"):
            text = file.read_text("utf-8")
            try:
                check_made_for(file.name, json.loads(text)["made_for"], setting, weights)
            except SpecError:
                continue
            return _table_of(f"sampling.accelerate: {AUTO}", text, entry, setting, weights)
    return None


def _table_of(where: str, text: str, entry: AccelerateSpec, setting: Setting, weights: Weights) -> dict[str, Any]:
    try:
        values = json.loads(text)
        made, plans = values["made_for"], {float(work): plan for work, plan in values["plans"].items()}
        check_made_for(where, made, setting, weights)
    except SpecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{where} is no step plan ({error!r}); write it with longtake calibrate") from None
    budget = entry.budget if entry.budget is not None else 0.5
    affordable = [work for work in plans if work <= budget + CLOSE]
    if not affordable:
        raise SpecError(
            f"{where} has plans for budgets of {', '.join(f'{work:g}' for work in sorted(plans))}; budget is"
            f" {budget:g}, use one of them"
        )
    table: dict[str, Any] = plans[max(affordable)]
    Table.load(table)
    return table


def made_for(setting: Setting, weights: Weights) -> dict[str, Any]:
    """What a plan is calibrated for, in JSON's types."""
    return {
        "model": weights.model,
        "weights": weights.checksum,
        "levels": {name: list(levels) for name, levels in setting.levels.items()},
        "branches": list(setting.branches),
        "blocks": setting.num_blocks,
    }


def check_made_for(where: str, made: Mapping[str, Any], setting: Setting, weights: Weights) -> None:
    """Raise `SpecError` if a plan was calibrated for other weights, steps, guidance or noise levels."""
    again = f"or calibrate it again: longtake calibrate {weights.model}"
    now = made_for(setting, weights)
    if made.get("weights") != now["weights"]:
        raise SpecError(
            f"{where} was calibrated for weights {str(made.get('weights'))[:12]} of {made.get('model')}, and"
            f" {weights.model} has {weights.checksum[:12]}; use that model, {again}"
        )
    steps = len(made["levels"]["video"]) - 1
    if steps != setting.num_steps:
        raise SpecError(
            f"{where} was calibrated for {steps} steps, and the film has {setting.num_steps}; set sampling.steps to"
            f" {steps}, {again} --set sampling.steps={setting.num_steps}"
        )
    if made.get("branches") != now["branches"]:
        raise SpecError(
            f"{where} was calibrated for the passes {' and '.join(map(str, made.get('branches', ())))}, and the film"
            f" has {' and '.join(setting.branches)}; use the same kind of guidance, {again}"
        )
    for name, levels in now["levels"].items():
        was = made["levels"].get(name, ())
        if len(was) != len(levels) or any(abs(one - other) > CLOSE for one, other in zip(was, levels, strict=True)):
            raise SpecError(
                f"{where} was calibrated for another schedule of noise levels of the {name}; use the same"
                f" sampling.schedule and sampling.shift, {again}"
            )
