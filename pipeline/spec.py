"""The storyboard: what to render, checked as a whole before anything starts.

A storyboard is a YAML file. It is read to a frozen `Storyboard`, or to a single `SpecError` that lists all mistakes of
the file, one line each: the key, its value, what is wrong, and the fix.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from importlib import resources
from itertools import pairwise
from math import isfinite
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from longtake.pipeline.errors import SpecError
from longtake.pipeline.names import scheme_of
from longtake.pipeline.registry import METHODS, SCHEDULES, SOLVERS, STAGES, alternatives
from longtake.pipeline.yaml_spec import (
    Place,
    Words,
    dotted,
    message_of,
    number,
    parse_yaml_spec,
    read_text,
    whole,
    words,
)

STORYBOARD_TEMPLATE = (
    resources.files("longtake.pipeline")
    .joinpath("storyboard_template.yaml")
    .read_text("utf-8")
    .replace("{schedules}", ", ".join(SCHEDULES))
    .replace("{solvers}", ", ".join(SOLVERS))
)
"""The commented storyboard that `longtake init` writes, with each key and its default."""

MAX_FILM_S = 100 * 3600

# ------------------------------------------------------------------ single values

_DURATION = re.compile(
    r"(?:(?P<h>\d{1,9}(?:\.\d{1,9})?)h)?(?:(?P<m>\d{1,9}(?:\.\d{1,9})?)m(?!s))?"
    r"(?:(?P<s>\d{1,9}(?:\.\d{1,9})?)s)?(?:(?P<ms>\d{1,9})ms)?(?:(?P<f>\d{1,9})f)?",
    re.ASCII,
)
_SECONDS = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}

_RATE = re.compile(r"\d{1,12}(\.\d{1,18}|/0*[1-9]\d{0,11})?", re.ASCII)
# Broadcast rates that people write as decimals, such as 23.976 or 29.97.
_NTSC_RATES = tuple(Fraction(nominal * 1000, 1001) for nominal in (12, 15, 24, 30, 48, 60, 120))


def parse_duration(text: str) -> tuple[Fraction, int]:
    """Exact seconds and whole frames of a duration such as `12s`, `1.5s`, `1m30s`, `500ms` or `48f`."""
    match = _DURATION.fullmatch(text.replace(" ", ""))
    if match is None or not match[0]:
        raise SpecError("write a number with its unit: 12s, 1.5s, 1m30s, 2h, 500ms, or 48f for frames")
    seconds = sum((Fraction(match[unit]) * scale for unit, scale in _SECONDS.items() if match[unit]), Fraction(0))
    return seconds, int(match["f"] or 0)


def parse_fps(value: object) -> Fraction:
    """The exact rate of `16`, `12.5` or `24000/1001`. A decimal near a broadcast rate (`23.976`) means that rate."""
    if not _RATE.fullmatch(str(value)):
        raise SpecError("write a rate such as 16, 23.976 or 24000/1001")
    fps = Fraction(str(value))
    if "." in str(value):
        fps = next((rate for rate in _NTSC_RATES if abs(rate - fps) < Fraction(1, 200)), fps)
    if not 1 <= fps <= 240:
        raise SpecError("use 1 to 240 frames per second")
    if fps.numerator >= 2**31:
        raise SpecError(f"no container counts time that finely; use {fps.limit_denominator(1001)}")
    return fps


def seconds_at(text: str, fps: Fraction) -> Fraction:
    """The exact seconds of a duration whose frames are counted at `fps`."""
    seconds, frames = parse_duration(text)
    return seconds + frames / fps


def _duration(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        raise SpecError(f"it has no unit; write {value}s for seconds or {value}f for frames")
    if not isinstance(value, str):
        raise SpecError("write a number with its unit, such as 12s or 48f")
    seconds, frames = parse_duration(value)
    if seconds == 0 and frames == 0:
        raise SpecError("it lasts no time; make it at least 1f")
    if seconds > MAX_FILM_S:
        raise SpecError(f"a film lasts at most {MAX_FILM_S // 3600}h; split it into several")
    return value


def _moment(value: object) -> str:
    try:
        parse_duration(value if isinstance(value, str) else "")
    except SpecError:
        raise SpecError(f"{value!r} is no moment of the scene; write it with its unit: 0s, 2.5s, or 40f") from None
    assert isinstance(value, str)
    return value


def _images(value: object) -> object:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise SpecError("use pictures at moments of the scene, such as {0s: a.png, 2.5s: b.png}")
    return tuple((_moment(at), url) for at, url in value.items())


def _mask(value: object) -> object:
    if value is None or isinstance(value, str | tuple):
        return value
    if not isinstance(value, dict) or not value:
        raise SpecError("use a file, or boxes over time such as {0s: [0.1, 0.2, 0.5, 0.9], 2s: [0.4, 0.2, 0.8, 0.9]}")
    for at, box in value.items():
        _moment(at)
        sides = box if isinstance(box, list | tuple) else ()
        fine = len(sides) == 4 and all(type(side) in (int, float) and 0 <= side <= 1 for side in sides)
        if not fine or sides[0] >= sides[2] or sides[1] >= sides[3]:
            raise SpecError(
                f"the box at {at} is {box!r}; use its left, top, right and bottom edge from 0 to 1, such as"
                " [0.1, 0.2, 0.5, 0.9]"
            )
    return tuple(value.items())


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


def _negative(value: object) -> object:
    if value is not None and not isinstance(value, str):
        raise SpecError("use text; put it in quotes if it looks like a number, and use '' for none")
    return value.strip() if isinstance(value, str) else value


def _film_path(value: object) -> str:
    path = PurePosixPath(words(value))
    if path.is_absolute() or ".." in path.parts or re.search(r"[:\\~\x00-\x1f]", str(path)):
        raise SpecError("it may leave the output root; use a relative path inside it, such as film.mp4")
    if path.suffix != ".mp4":
        raise SpecError(f"the container is mp4; use {path.with_suffix('.mp4') if path.name else 'film.mp4'}")
    return str(path)


# ------------------------------------------------------------------ conditioning files

ConditioningKind = Literal["image", "keyframe", "last image", "footage", "mask", "film", "sound"]
"""The kinds of files that can condition a film: pictures at the start, at a moment and at the end of a scene, footage
as its picture and the mask of that, a film to continue, a sound to which the picture is rendered.
`pipeline/conditioning/inputs.py` has a class for each."""

PICTURE_KINDS: frozenset[ConditioningKind] = frozenset(("image", "keyframe", "last image", "footage", "mask", "film"))
"""What a model can be given whose codec encodes pictures and whose weights accept them at any place."""

EVERY_KIND = PICTURE_KINDS | frozenset[ConditioningKind](("sound",))
"""The same of a model whose codec encodes sound, too."""


@dataclass(frozen=True)
class ConditioningFile:
    """A file that a storyboard names to condition its film.

    Args:
        kind: what is read from it.
        key: where the storyboard names it, such as "scenes[0].image".
        url: its path or URL.
        scene: the scene that it conditions; None if it conditions the whole film.
        at: when it is shown, from the start of the scene; None for other kinds than keyframes.
    """

    kind: ConditioningKind
    key: str
    url: str
    scene: int | None = None
    at: str | None = None


@dataclass(frozen=True)
class Conditions:
    """Marks a key of the storyboard whose value is the path or URL of a conditioning file."""

    kind: ConditioningKind


@dataclass(frozen=True)
class NamesFile:
    """Marks a key of the storyboard whose value is the path or URL of another file."""


# ------------------------------------------------------------------ the storyboard

Negative = Annotated[str | None, BeforeValidator(_negative)]
"""A negative prompt, "" for none; None for that of the film, or of the model."""

Fps = Annotated[Fraction, BeforeValidator(parse_fps), PlainSerializer(str)]

Share = Annotated[float, number(0, 1)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


SpecT = TypeVar("SpecT", bound=_Spec)


def split_strength(text: str) -> tuple[str, float]:
    """The file and strength of `FILE[:STRENGTH]`, such as style.safetensors:0.8; the strength is 1 if it is left out.

    Raises:
        SpecError: the strength is not a number.
    """
    file, _, strength = text.rpartition(":")
    if not file or re.search(r"/|\.[a-zA-Z]", strength):  # the colon of a URL, or of a file's name
        return text, 1.0
    try:
        return file, float(strength)
    except ValueError:
        raise SpecError(f"{text}: the strength {strength!r} is not a number; write {file}:0.8") from None


class VideoSpec(_Spec):
    """Size and rate of the picture. Both sides are even, because 4:2:0 chroma needs that."""

    width: Annotated[int, whole(2, 8192, even=True)] = 64
    height: Annotated[int, whole(2, 8192, even=True)] = 64
    fps: Fps = Fraction(16)


class AudioSpec(_Spec):
    """Rate of the sound. `file` is a sound for the whole film, to which the picture is rendered."""

    sample_rate: Annotated[int, whole(8000, 192_000)] = 16_000
    file: Annotated[Place | None, Conditions("sound")] = None


Box = tuple[Share, Share, Share, Share]
"""Left, top, right and bottom edge of a part of the picture, from 0 to 1."""

_AS_MAPPING = PlainSerializer(lambda value: dict(value) if isinstance(value, tuple) else value)

Images = Annotated[
    tuple[tuple[str, Place], ...], BeforeValidator(_images, json_schema_input_type=dict[str, str]), _AS_MAPPING
]
"""Pictures and the moments at which they are shown."""

Boxes = tuple[tuple[str, Box], ...]
"""Boxes and the moments at which they are reached."""

_MASK = BeforeValidator(_mask, json_schema_input_type=str | dict[str, Box] | None)


class Scene(_Spec):
    """One prompt and how long it lasts.

    Args:
        negative: what guidance pushes away from; None for that of the film.
        transition: `continue` continues the scene before; `cut` starts fresh, or from `image`.
        image: the first picture.
        images: pictures at moments of the scene.
        last_image: the last picture.
        video: footage that is the picture of the scene, so that only its sound is rendered, unless `mask` or `strength`
            is set.
        mask: the part of `video` that is rendered again: a still or a film, white where it is, or boxes over time.
        keep: which side of the mask stays as it is in `video`.
        strength: the noise level from which `video` is rendered again: 0 changes nothing, 1 keeps nothing.
    """

    prompt: Words
    negative: Negative = None
    duration: Annotated[str, BeforeValidator(_duration)]
    transition: Literal["continue", "cut"] = "continue"
    image: Annotated[Place | None, Conditions("image")] = None
    images: Annotated[Images, Conditions("keyframe")] = ()
    last_image: Annotated[Place | None, Conditions("last image")] = None
    video: Annotated[Place | None, Conditions("footage")] = None
    mask: Annotated[Place | Boxes | None, _MASK, _AS_MAPPING, Conditions("mask")] = None
    keep: Literal["outside", "inside"] = "outside"
    strength: Annotated[float, number(0, 1)] | None = None

    @property
    def boxes(self) -> Boxes | None:
        """The mask, if it is boxes over time."""
        return self.mask if isinstance(self.mask, tuple) else None

    @property
    def is_shown_as_given(self) -> bool:
        """Whether its picture is the footage, all of it."""
        return self.video is not None and self.mask is None and self.strength is None

    def duration_s(self, fps: Fraction) -> Fraction:
        """The exact length in seconds; frames are counted at `fps`."""
        return seconds_at(self.duration, fps)


class GuidanceSpec(_Spec):
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


class AccelerateSpec(_Spec):
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


class SamplingSpec(_Spec):
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


def _noise(value: object) -> object:
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or not all(type(each) in (int, float) and 0 <= each <= 1 for each in numbers):
        raise SpecError("use two noise levels from 1 (noise) to 0 (clean), such as [1, 0.9]")
    return (float(max(numbers)), float(min(numbers)))


class LoraSpec(_Spec):
    """A LoRA that changes the model's weights while it is in use.

    Args:
        file: its path or URL.
        strength: factor of the change.
        scenes: numbers of the scenes in which it is in use, from 0; None for all.
        streams: the streams whose layers it changes; None for all.
        noise: the noise levels from and to which it is in use; None for all.
    """

    file: Annotated[Place, NamesFile()]
    strength: Annotated[float, number(-10, 10)] = 1.0
    scenes: tuple[Annotated[int, whole(0, 100_000)], ...] | None = None
    streams: tuple[Literal["video", "audio"], ...] | None = None
    noise: Annotated[tuple[float, float] | None, BeforeValidator(lambda x: None if x is None else _noise(x))] = None


def _in_one_pass(chunks: int, info: ValidationInfo) -> int:
    if chunks > 1 and info.data.get("hls", True):
        raise SpecError(
            f"{chunks} chunks are decoded together, so a live playlist would lag by as many; use hls: false, or"
            " decode_batch: 1"
        )
    return chunks


class Retake(_Spec):
    """A part of a finished film that is rendered again.

    Args:
        take: the output folder or URL of the take that it changes.
        start, stop: when it begins and ends, as `from` and `to` in a storyboard.
        seed: of its noise.
        prompt: None for that of the scene.
        streams: those that are rendered again; the other one stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    take: Annotated[Place, NamesFile()]
    start: Annotated[str, BeforeValidator(_moment)] = Field(alias="from")
    stop: Annotated[str, BeforeValidator(_moment)] = Field(alias="to")
    seed: Annotated[int, whole(0, 2**63 - 1)]
    prompt: Words | None = None
    streams: tuple[Literal["video", "audio"], ...] = ("video", "audio")

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        (first_s, first_f), (last_s, last_f) = parse_duration(self.start), parse_duration(self.stop)
        if (last_s, last_f) <= (first_s, first_f):
            raise SpecError(f"it is from {self.start} to {self.stop}; let it end later than it begins")
        if not self.streams:
            raise SpecError("streams is empty; name video, audio or both")
        return self


class OutputSpec(_Spec):
    """What is written to the output root.

    Args:
        film: its name in the output root.
        container: of the film.
        hls: whether a live playlist is written too.
        quality: x264's constant quantiser; 0 is lossless.
        upscale: the factor by which the picture becomes wider and higher; None for none.
        upscaler: name, path or URL of the model that upscales.
        decode_batch: chunks whose pictures are decoded in one pass.
    """

    film: Annotated[str, BeforeValidator(_film_path)] = "film.mp4"
    container: Literal["mp4"] = "mp4"
    hls: bool = True
    quality: Annotated[int, whole(0, 51)] = 20
    upscale: Literal[2, 4] | None = None
    upscaler: Place = "upscaler"
    decode_batch: Annotated[int, whole(1, 64), AfterValidator(_in_one_pass)] = 1


def _lasts_a_frame(scene: Scene, info: ValidationInfo) -> Scene:
    video = info.data.get("video")
    if video is not None and scene.duration_s(video.fps) * video.fps < 1:
        fields = {"fps": str(video.fps), "duration": scene.duration}
        raise PydanticCustomError("scene_duration", "it is less than a frame at {fps} fps; make it at least 1f", fields)
    return scene


def _last_a_film(scenes: tuple[Scene, ...], info: ValidationInfo) -> tuple[Scene, ...]:
    if not scenes:
        raise SpecError("a film needs at least one scene, with a prompt and a duration")
    video = info.data.get("video")
    if video is not None and sum(scene.duration_s(video.fps) for scene in scenes) > MAX_FILM_S:
        raise SpecError(f"together they last longer than {MAX_FILM_S // 3600}h; split the film into several")
    return scenes


def _loras(loras: tuple[LoraSpec, ...], info: ValidationInfo) -> tuple[LoraSpec, ...]:
    count = len(info.data.get("scenes", ()))
    for index, lora in enumerate(loras):
        if count and lora.scenes is not None and (beyond := [scene for scene in lora.scenes if scene >= count]):
            raise SpecError(f"entry {index} names scenes {beyond}; the film has scenes 0 to {count - 1}")
    return loras


def _sound_file(value: object) -> object:
    """`audio: song.wav` is short for `audio: {file: song.wav}`."""
    return {"file": value} if isinstance(value, str) else value


class Storyboard(_Spec):
    """A whole film; built with `parse_storyboard` or `load_storyboard`."""

    title: Words = "Untitled"
    model: Place = "sounding-shapes"
    seed: Annotated[int, whole(0, 2**63 - 1)] = 0
    negative: Negative = None
    continue_from: Annotated[Place | None, Conditions("film")] = None
    video: VideoSpec = VideoSpec()
    audio: Annotated[AudioSpec, BeforeValidator(_sound_file, json_schema_input_type=AudioSpec | str)] = AudioSpec()
    scenes: Annotated[tuple[Annotated[Scene, AfterValidator(_lasts_a_frame)], ...], AfterValidator(_last_a_film)]
    loras: Annotated[tuple[LoraSpec, ...], AfterValidator(_loras)] = ()
    retakes: tuple[Retake, ...] = ()
    sampling: SamplingSpec = SamplingSpec()
    output: OutputSpec = OutputSpec()
    parallel_scenes: bool = False

    @property
    def acts(self) -> tuple[str, ...]:
        """The acts that each chunk passes, in order."""
        return tuple(name for name, stage in STAGES.items() if self._asks_for(stage.asked_by))

    def _asks_for(self, key: str | None) -> bool:
        return key is None or bool(attrgetter(key)(self))

    def negative_of(self, scene: int) -> str:
        """The negative prompt of a scene; "" for none."""
        own = self.scenes[scene].negative
        return (self.negative or "") if own is None else own

    def durations_s(self) -> tuple[Fraction, ...]:
        """The exact length of each scene, for `plan_scenes`."""
        return tuple(scene.duration_s(self.video.fps) for scene in self.scenes)

    def conditioning_files(self) -> tuple[ConditioningFile, ...]:
        """All files that condition the film, in the order of the storyboard's keys."""
        return tuple(_conditioning_files(self))

    def cuts(self) -> tuple[bool, ...]:
        """Whether each scene opens with a cut, for `plan_scenes`; the first always does."""
        return tuple(index == 0 or scene.transition == "cut" for index, scene in enumerate(self.scenes))


def _conditioning_files(spec: _Spec, prefix: str = "", scene: int | None = None) -> Iterator[ConditioningFile]:
    for name, field in type(spec).model_fields.items():
        key, value = prefix + name, getattr(spec, name)
        if isinstance(value, _Spec):
            yield from _conditioning_files(value, f"{key}.", scene)
        elif name == "scenes":
            for index, each in enumerate(value):
                yield from _conditioning_files(each, f"{key}[{index}].", index)
        else:
            for mark in field.metadata:
                if isinstance(mark, Conditions) and isinstance(value, str):
                    yield ConditioningFile(mark.kind, key, value, scene)
                elif isinstance(mark, Conditions) and mark.kind == "keyframe":
                    for at, url in value:
                        yield ConditioningFile(mark.kind, f"{key}.{at}", url, scene, at)


# ------------------------------------------------------------------ reading


def load_storyboard(url: str, overrides: Sequence[str] = ()) -> Storyboard:
    """Read and check the storyboard at any path or fsspec URL. Its files may be relative to it."""
    text = read_text(url, f"`longtake init {url}` writes one to start from")
    return located(parse_storyboard(text, overrides, source=url), url)


def located(storyboard: Storyboard, source: str) -> Storyboard:
    """`storyboard` with the full path or URL of each file that it names, which may be relative to the storyboard.

    Args:
        source: path or URL of the storyboard.
    """

    def locate(file: str) -> str:
        if scheme_of(file):
            return file
        folder = source.rpartition("/")[0]
        if "://" in source and not Path(file).is_absolute():
            return f"{folder}/{file}"
        return str(Path(folder, file).expanduser().absolute())

    return _with_urls(storyboard, locate)


def _with_urls(spec: SpecT, change: Callable[[str], str]) -> SpecT:
    """`spec` with the URL of each file that it names changed. Keys that were left out still count as left out."""
    changed: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, _Spec):
            changed[name] = _with_urls(value, change)
        elif isinstance(value, tuple) and all(isinstance(each, _Spec) for each in value):
            changed[name] = tuple(_with_urls(each, change) for each in value)
        elif any(isinstance(mark, Conditions | NamesFile) for mark in field.metadata):
            if isinstance(value, str):
                changed[name] = change(value)
            elif name == "images":
                changed[name] = tuple((at, change(url)) for at, url in value)
    return spec.model_copy(update={name: value for name, value in changed.items() if value != getattr(spec, name)})


def parse_storyboard(text: str, overrides: Sequence[str] = (), *, source: str = "storyboard") -> Storyboard:
    """Check the YAML in `text`; see `parse_yaml_spec`. Raises `SpecError` with one line for each mistake."""
    return parse_yaml_spec(Storyboard, text, overrides, source, mistake)


_SECTIONS: dict[str, type[_Spec]] = {
    "": Storyboard,
    "video": VideoSpec,
    "audio": AudioSpec,
    "scenes": Scene,
    "loras": LoraSpec,
    "retakes": Retake,
    "sampling": SamplingSpec,
    "output": OutputSpec,
}


def mistake(error: ErrorDetails) -> str:
    """A message for a finding of pydantic in a storyboard: the key, its value, and the fix."""
    if error["type"] == "scene_duration":
        return f"{dotted(error['loc'])}.duration is {error['ctx']['duration']!r}; {error['msg']}"
    return message_of(error, _nearest_key)


def _nearest_key(loc: tuple[str | int, ...]) -> str:
    section = next((part for part in reversed(loc[:-1]) if isinstance(part, str)), "")
    known = [field.alias or name for name, field in _SECTIONS[section].model_fields.items()]
    near = get_close_matches(str(loc[-1]), known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = [f"{name}.{loc[-1]}" for name, spec in _SECTIONS.items() if loc[-1] in spec.model_fields]
    return f"did you mean {elsewhere[0].lstrip('.')}?" if elsewhere else f"known here: {', '.join(known)}"
