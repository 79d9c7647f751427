"""The training configuration: a YAML file, fully checked before anything starts."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import ErrorDetails

from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.yaml_spec import Words, message_of, number, parse_yaml_spec, read_text, whole

MAX_STEPS = 10**9


def _read_number(value: object) -> object:
    """Numbers in text become floats: YAML 1.1 reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _option(value: object) -> object:
    read = _read_number(value)
    if not isinstance(read, float | int | str | bool):
        raise SpecError("use a number, text, true or false")
    return read


def _real(low: float, high: float) -> BeforeValidator:
    check: Any = number(low, high).func
    return BeforeValidator(lambda value: check(_read_number(value)))


Beta = Annotated[float, _real(0, 0.999999)]
Limits = dict[str, Annotated[float, _real(-1e9, 1e9)]]


class TrainSpec(BaseModel):
    """A training configuration; build one with `parse_train_spec` or `load_train_spec`.

    Args:
        stage: the training task.
        batch_size: examples per step, over all workers.
        warmup_steps: steps over which the learning rate rises to `lr`.
        decay_fraction: final part of `steps` over which the learning rate falls to zero; `decay` sets the curve.
        clip: maximum gradient norm; 0 disables clipping.
        ema: decay of the saved running average of weights; 0 saves the weights themselves.
        dtype: precision of the forward pass (autocast); weights are always float32.
        zero_stage: DeepSpeed's ZeRO stage: 0 replicates, 1 shards the optimizer's state, 2 also the gradients.
        threads: compute threads per worker; next to a GPU, as many batches are drawn ahead.
        checkpoint_every_s: seconds between checkpoints; 0 for one after every call. The last step is always saved.
        sample_every_s: seconds between samples, which take time; 0 for samples only at the end.
        start: path or URL of a model to start from.
        model: the embedded model whose architecture is trained, or that a LoRA changes.
        data: a folder or URL of clips; by default, synthetic shapes.
        at_least, at_most: limits of the log's figures at the last step, by name. A run that misses one fails, so that
            the stages after it do not start.
        options: options of the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stage: Literal["codec", "denoiser", "rollout", "lora", "upscaler"]
    seed: Annotated[int, whole(0, 2**63 - 1)] = 0
    steps: Annotated[int, whole(1, MAX_STEPS)]
    batch_size: Annotated[int, whole(1, 2**20)]
    lr: Annotated[float, _real(0, 10)]
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(_pair)] = (0.9, 0.95)
    weight_decay: Annotated[float, _real(0, 10)] = 0.0
    warmup_steps: Annotated[int, whole(0, MAX_STEPS)] = 0
    decay_fraction: Annotated[float, _real(0, 1)] = 0.0
    decay: Literal["linear", "cosine"] = "linear"
    clip: Annotated[float, _real(0, 1e9)] = 1.0
    ema: Annotated[float, _real(0, 0.9999999)] = 0.999
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    zero_stage: Annotated[int, whole(0, 2)] = 0
    workers: Annotated[int, whole(1, 4096)] = 1
    threads: Annotated[int, whole(1, 1024)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    log_every: Annotated[int, whole(1, MAX_STEPS)] = 50
    checkpoint_every_s: Annotated[float, _real(0, 1e6)] = 300.0
    sample_every_s: Annotated[float, _real(0, 1e6)] = 0.0
    start: Words | None = None
    model: Words = "sounding-shapes"
    data: Words | None = None
    at_least: Limits = Field(default_factory=dict)
    at_most: Limits = Field(default_factory=dict)
    options: dict[str, Annotated[float | int | str | bool, BeforeValidator(_option)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.workers:
            below, above = self.batch_size // self.workers * self.workers, -(-self.batch_size // self.workers)
            sizes = " or ".join(str(size) for size in (below, above * self.workers) if size)
            raise SpecError(
                f"batch_size is {self.batch_size}; it does not split over {self.workers} workers, use {sizes}"
            )
        if self.warmup_steps + self.decay_steps > self.steps:
            raise SpecError(
                f"warmup_steps is {self.warmup_steps}; with {self.decay_steps} steps of decay that exceeds the"
                f" {self.steps} steps in total, use at most {self.steps - self.decay_steps}"
            )
        return self

    @property
    def decay_steps(self) -> int:
        """Number of final steps over which the learning rate falls."""
        return round(self.decay_fraction * self.steps)

    @property
    def worker_batch(self) -> int:
        """Examples per step on one worker."""
        return self.batch_size // self.workers

    def lr_at(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup_steps))
        falling = min(1.0, (self.steps - step) / max(1, self.decay_steps))
        if self.decay == "cosine":
            falling = (1 - math.cos(math.pi * falling)) / 2
        return float(self.lr * rising * falling)


def check_limits(spec: TrainSpec, figures: Mapping[str, float]) -> None:
    """Raise `LongtakeError` if figures of the log's last line miss limits of `spec`."""
    missed = [
        f"{name} is {figures[name]:.4g}, at least {least:g} is needed"
        for name, least in spec.at_least.items()
        if figures[name] < least
    ]
    missed += [
        f"{name} is {figures[name]:.4g}, at most {most:g} is needed"
        for name, most in spec.at_most.items()
        if figures[name] > most
    ]
    if missed:
        raise LongtakeError(
            f"the model is kept, but {'; '.join(missed)} for the next stage: train longer, or change the recipe"
        )


def check_limits_are_logged(spec: TrainSpec, figures: Mapping[str, float]) -> None:
    """Raise `SpecError` if a limit of `spec` is not on a figure of the log."""
    for key, limits in (("at_least", spec.at_least), ("at_most", spec.at_most)):
        for name in limits.keys() - figures.keys():
            raise SpecError(f"{key}.{name} is not a figure of this stage; its log has {', '.join(figures)}")


def load_train_spec(url: str, overrides: Sequence[str] = ()) -> TrainSpec:
    """Read and check the training configuration at any path or fsspec URL; see `parse_train_spec`."""
    return parse_train_spec(read_text(url, "see configs/ for examples"), overrides, source=url)


def parse_train_spec(text: str, overrides: Sequence[str] = (), *, source: str = "configuration") -> TrainSpec:
    """Parse and check the YAML in `text`. Raises `SpecError` with a line for every mistake."""
    return parse_yaml_spec(TrainSpec, text, overrides, source, _message)


def _message(error: ErrorDetails) -> str:
    if error["type"] == "value_error" and not error["loc"]:  # concerns several keys, which its text names
        return str(error["ctx"]["error"])
    return message_of({**error, "type": "model_type"} if error["type"] == "dict_type" else error, _nearest_key)


def _nearest_key(loc: tuple[str | int, ...]) -> str:
    near = get_close_matches(str(loc[-1]), list(TrainSpec.model_fields), n=1)
    return f"did you mean {near[0]}?" if near else "options of a task go under options"
