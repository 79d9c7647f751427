"""The storyboard: what to render, checked as a whole before anything starts.

A storyboard is a YAML file. It is read to a frozen `Storyboard`, or to a single `SpecError` that lists all mistakes of
the file, one line each: the key, its value, what is wrong, and the fix.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from fractions import Fraction
from importlib import resources
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from longtake.pipeline.durations import MAX_FILM_S, Fps, check_moment, parse_duration
from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import ConditioningFile, Conditions, NamesFile
from longtake.pipeline.names import scheme_of
from longtake.pipeline.registry import SCHEDULES, SOLVERS, STAGES
from longtake.pipeline.sampling_spec import SamplingSpec
from longtake.pipeline.scene_spec import Negative, Scene
from longtake.pipeline.yaml_spec import (
    Place,
    Spec,
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

AnySpec = TypeVar("AnySpec", bound=Spec)


def _film_path(value: object) -> str:
    path = PurePosixPath(words(value))
    if path.is_absolute() or ".." in path.parts or re.search(r"[:\\~\x00-\x1f]", str(path)):
        raise SpecError("it may leave the output root; use a relative path inside it, such as film.mp4")
    if path.suffix != ".mp4":
        raise SpecError(f"the container is mp4; use {path.with_suffix('.mp4') if path.name else 'film.mp4'}")
    return str(path)


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


class VideoSpec(Spec):
    """Size and rate of the picture. Both sides are even, because 4:2:0 chroma needs that."""

    width: Annotated[int, whole(2, 8192, even=True)] = 64
    height: Annotated[int, whole(2, 8192, even=True)] = 64
    fps: Fps = Fraction(16)


class AudioSpec(Spec):
    """Rate of the sound. `file` is a sound for the whole film, to which the picture is rendered."""

    sample_rate: Annotated[int, whole(8000, 192_000)] = 16_000
    file: Annotated[Place | None, Conditions("sound")] = None


def _noise(value: object) -> object:
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or not all(type(each) in (int, float) and 0 <= each <= 1 for each in numbers):
        raise SpecError("use two noise levels from 1 (noise) to 0 (clean), such as [1, 0.9]")
    return (float(max(numbers)), float(min(numbers)))


class LoraSpec(Spec):
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


class Retake(Spec):
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
    start: Annotated[str, BeforeValidator(check_moment)] = Field(alias="from")
    stop: Annotated[str, BeforeValidator(check_moment)] = Field(alias="to")
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


class OutputSpec(Spec):
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


class Storyboard(Spec):
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


def _conditioning_files(spec: Spec, prefix: str = "", scene: int | None = None) -> Iterator[ConditioningFile]:
    for name, field in type(spec).model_fields.items():
        key, value = prefix + name, getattr(spec, name)
        if isinstance(value, Spec):
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


def _with_urls(spec: AnySpec, change: Callable[[str], str]) -> AnySpec:
    """`spec` with the URL of each file that it names changed. Keys that were left out still count as left out."""
    changed: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Spec):
            changed[name] = _with_urls(value, change)
        elif isinstance(value, tuple) and all(isinstance(each, Spec) for each in value):
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


_SECTIONS: dict[str, type[Spec]] = {
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
