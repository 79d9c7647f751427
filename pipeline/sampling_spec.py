"""How a storyboard says that noise becomes latents: steps, guidance, plans of passes."""

from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core.core_schema import ValidationInfo

from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import NamesFile
from longtake.pipeline.registry import METHODS, SCHEDULES, SOLVERS, alternatives
from longtake.pipeline.yaml_spec import Place, Spec, message_of, number, whole


def _schedule(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and value in SCHEDULES:
        return value
    if not isinstance(value, list | tuple) or not all(type(sigma) in (int, float) for sigma in value):
        raise SpecError(f"use {', '.join(SCHEDULES)}, or a list of sigmas such as [1.0, 0.6, 0.3]")
    falls = all(noisier > cleaner for noisier, cleaner in pairwise((*value, 0)))
    if not value or value[0] != 1 or not falls:
        raise SpecError("sigmas start at 1, fall at every step and stay above 0, such as [1.0, 0.6, 0.3]")
    steps = info.data.get("steps")
    if steps is not None and len(value) != steps:
        raise SpecError(f"it holds {len(value)} sigmas for {steps} steps; set sampling.steps to {len(value)}")
    return tuple(float(sigma) for sigma in value)


def _solver(value: object) -> object:
    if not isinstance(value, str) or value not in SOLVERS:
        raise SpecError(f"use {alternatives(SOLVERS)}")
    return value


def _method(value: object) -> object:
    if value is not None and value not in ("auto", *METHODS):
        near = get_close_matches(str(value), METHODS, n=1)
        raise SpecError(f"did you mean {near[0]}?" if near else f"use {alternatives(('auto', *METHODS))}")
    return value


class GuidanceSpec(Spec):
    """Guidance of each stream.

    Args:
        video: scale of the prompt for the picture; 1 is off.
        audio: scale of the prompt for the sound; 1 is off.
        modality: scale away from the prediction without cross-modal attention; 1 is off.
        stg: scale away from the prediction without self-attention in `stg_blocks`; 0 is off.
        stg_blocks: the blocks for `stg`.
        rescale: how far the standard deviation of the result is pulled back to that of the prompted pass; 0 is off.
    """

    video: Annotated[float, number(0, 100)] = 3.0
    audio: Annotated[float, number(0, 100)] = 7.0
    modality: Annotated[float, number(0, 100)] = 1.0
    stg: Annotated[float, number(0, 100)] = 0.0
    stg_blocks: tuple[Annotated[int, whole(0, 1000)], ...] = ()
    rescale: Annotated[float, number(0, 1)] = 0.0

    @model_validator(mode="after")
    def _breaks_blocks(self) -> Self:
        if self.stg and not self.stg_blocks:
            raise SpecError(
                f"stg is {self.stg:g} and stg_blocks names no block; name some, such as [28], or leave out stg"
            )
        return self


def _guidance(value: object) -> object:
    if isinstance(value, GuidanceSpec):
        return value
    if isinstance(value, dict):
        try:
            return GuidanceSpec.model_validate(value)
        except ValidationError as error:
            known = ", ".join(GuidanceSpec.model_fields)
            faults = [message_of(each, lambda _: f"known here: {known}") for each in error.errors(include_url=False)]
            raise SpecError("; ".join(faults)) from None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise SpecError("use a number from 0 to 100, or scales for each stream such as {video: 3, audio: 7}")
    return float(value)


class AccelerateSpec(Spec):
    """A step plan: which parts of the passes are computed. One of `method`, `file` and `plan`.

    Args:
        method: its name, or "auto"; further keys are the method's parameters.
        file: path or URL of a calibrated plan.
        budget: the largest share of the work of a calibrated plan; 0.5 if it is left out.
        plan: a calibrated plan itself, as the journal and the actors get it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    method: Annotated[str | None, BeforeValidator(_method)] = None
    file: Annotated[Place | None, NamesFile()] = None
    budget: Annotated[float, number(0.01, 1)] | None = None
    plan: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(value is not None for value in (self.method, self.file, self.plan)) != 1:
            raise SpecError("name one method or one file, such as {method: taylorseer, every: 3} or plan.json")
        if self.method in (None, "auto") and self.parameters:
            raise SpecError(
                f"{', '.join(self.parameters)} are parameters of methods; a calibrated plan has a budget only"
            )
        if self.method not in (None, "auto") and self.budget is not None:
            raise SpecError(f"budget is for calibrated plans and auto; {self.method} has parameters of its own")
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the method."""
        return dict(self.model_extra or {})

    @model_serializer(mode="wrap")
    def _said(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what is said."""
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if value is not None}


def _accelerate(value: object) -> object:
    """`taylorseer`, `plan.json`, a mapping, or a list of them."""
    if value is None:
        return ()
    listed = value if isinstance(value, list | tuple) else [value]
    found = []
    for each in listed:
        entry = each
        if isinstance(each, str):
            entry = {"file" if each.endswith(".json") else "method": each}
        if not isinstance(entry, AccelerateSpec):
            if not isinstance(entry, dict):
                raise SpecError(f"use {alternatives(('auto', *METHODS))}, a calibrated plan.json, or a list of them")
            try:
                entry = AccelerateSpec.model_validate(entry)
            except ValidationError as error:
                faults = [message_of(each, lambda _: "") for each in error.errors(include_url=False)]
                raise SpecError("; ".join(faults)) from None
        found.append(entry)
    return tuple(found)


class SamplingSpec(Spec):
    """How noise becomes latents.

    Args:
        steps: denoising steps of each chunk.
        guidance: one scale for the prompt, or scales for each stream.
        guidance_2: the guidance at low noise, for models with two experts.
        schedule: the name of a schedule, or the sigmas themselves. The shift of the dynamic one depends on the size of
            the picture, for models that were trained so.
        shift: of the shifted schedule.
        solver: of the sampling equation.
        restarts: how often the first chunk after each cut is noised again half-way and denoised from there.
        accelerate: what of the passes is computed; everything if it is empty.
    """

    steps: Annotated[int, whole(1, 1000)] = 12
    guidance: Annotated[float | GuidanceSpec, BeforeValidator(_guidance)] = 2.5
    guidance_2: Annotated[float, number(0, 100)] | None = None
    schedule: Annotated[str | tuple[float, ...], BeforeValidator(_schedule)] = "shifted"
    shift: Annotated[float, number(0.01, 100)] = 2.5
    solver: Annotated[str, BeforeValidator(_solver), WithJsonSchema({"enum": list(SOLVERS)})] = "euler"
    restarts: Annotated[int, whole(0, 10)] = 0
    accelerate: Annotated[tuple[AccelerateSpec, ...], BeforeValidator(_accelerate)] = ()

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `restarts` and `accelerate` if there are none, as in the keys of journals that are older."""
        values: dict[str, Any] = serialize(self)
        unused = {name for name in ("restarts", "accelerate") if not getattr(self, name)}
        return {name: value for name, value in values.items() if name not in unused}
