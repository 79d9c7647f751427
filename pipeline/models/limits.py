"""A model's defaults for a storyboard, and the limits that it enforces."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from math import exp, log

from pydantic import ValidationError

from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import ConditioningKind
from longtake.pipeline.sampling_spec import GuidanceSpec, SamplingSpec
from longtake.pipeline.scene_spec import Scene
from longtake.pipeline.spec import AudioSpec, Storyboard, VideoSpec, mistake


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the tokens of a pass: exp of a line through two points, as LTX-Video and FLUX sample.

    Args:
        base_tokens, max_tokens: video tokens at which the shift is exp of `base_shift` and of `max_shift`.
        terminal: the level to which the last one above 0 is stretched; None leaves it.
    """

    base_tokens: int = 1024
    max_tokens: int = 4096
    base_shift: float = 0.95
    max_shift: float = 2.05
    terminal: float | None = 0.1

    def shift(self, tokens: int) -> float:
        """The shift for a pass of `tokens` video tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return exp(self.base_shift + slope * (tokens - self.base_tokens))


@dataclass(frozen=True)
class ModelDefaults:
    """The values of keys that a storyboard leaves out. By default those of the built-in models.

    Args:
        guidance_2: the guidance below `boundary`, for models with an expert on each side of it.
        boundary: a noise level; None for models without experts.
        dynamic: the model's dynamic schedule; None if it has none.
        negative: the prompt of the unguided passes.
        sources: where defaults are from, by key, for the user; by default the model itself.
    """

    steps: int = SamplingSpec().steps
    guidance: float | GuidanceSpec = SamplingSpec().guidance
    guidance_2: float | None = None
    schedule: str | tuple[float, ...] = SamplingSpec().schedule
    shift: float = SamplingSpec().shift
    solver: str = SamplingSpec().solver
    width: int = VideoSpec().width
    height: int = VideoSpec().height
    fps: Fraction = VideoSpec().fps
    sample_rate: int = AudioSpec().sample_rate
    boundary: float | None = None
    dynamic: DynamicShift | None = None
    negative: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


def with_defaults(storyboard: Storyboard, defaults: ModelDefaults) -> Storyboard:
    """`storyboard` with all keys of picture, sound and sampling, and its negative prompt: those that it leaves out are
    the model's defaults.

    Raises:
        SpecError: its values contradict the model's defaults.
    """
    resolved = {name: getattr(storyboard, name) for name in Storyboard.model_fields}
    for name in ("video", "audio", "sampling"):
        section = resolved[name]
        kept = {key: getattr(section, key) for key in type(section).model_fields}
        left_out = {each.name for each in fields(defaults)} & (kept.keys() - section.model_fields_set)
        resolved[name] = kept | {key: getattr(defaults, key) for key in left_out}
    if storyboard.negative is None:
        resolved["negative"] = defaults.negative or None
    try:
        return Storyboard.model_validate(resolved)
    except ValidationError as error:
        raise SpecError("\n".join(mistake(details) for details in error.errors(include_url=False))) from None


def sources_of(storyboard: Storyboard, defaults: ModelDefaults) -> dict[str, str]:
    """Where each setting of a storyboard as a person wrote it is taken from: "storyboard", or the default's source."""
    found = {"negative": "storyboard" if storyboard.negative is not None else _source(defaults, "negative")}
    for name in ("sampling", "video"):
        section = getattr(storyboard, name)
        for key in type(section).model_fields:
            said = key in section.model_fields_set
            found[f"{name}.{key}"] = "storyboard" if said else _source(defaults, key)
    return found


def _source(defaults: ModelDefaults, key: str) -> str:
    return defaults.sources.get(key, "the model's default")


@dataclass(frozen=True)
class SizeLimits:
    """One side of the picture, in pixels: a multiple of `multiple` in `minimum..maximum`."""

    multiple: int
    minimum: int
    maximum: int

    def nearest(self, size: int) -> tuple[int, ...]:
        """The nearest allowed sizes below and above `size`."""
        below = size // self.multiple * self.multiple
        above = below if below == size else below + self.multiple
        return tuple(sorted({min(max(near, self.minimum), self.maximum) for near in (below, above)}))


@dataclass(frozen=True)
class ModelLimits:
    """What a model can render. The model's own package builds it.

    Args:
        given: the conditioning files that its codecs encode and its weights accept; see `ConditioningKind`.
        trained_sizes: widths and heights of the pictures that it was trained on; empty if it draws all sizes alike.
        needs_picture: whether each section must begin with an image that is given, as for weights that only continue
            images.
    """

    name: str
    width: SizeLimits
    height: SizeLimits
    sample_rates: tuple[int, ...]
    min_fps: Fraction
    max_fps: Fraction
    max_prompt_words: int
    max_duration_s: Fraction | None = None
    given: frozenset[ConditioningKind] = frozenset()
    needs_picture: bool = False
    trained_sizes: tuple[tuple[int, int], ...] = ()


def untrained_size(storyboard: Storyboard, limits: ModelLimits) -> str | None:
    """What is wrong with a size that the model was not trained on, and the fix; None if nothing is."""
    size = (storyboard.video.width, storyboard.video.height)
    if not limits.trained_sizes or size in limits.trained_sizes:
        return None
    width, height = min(limits.trained_sizes, key=lambda trained: _far(trained, size))
    scale = min((1, 2, 4), key=lambda factor: _far((factor * width, factor * height), size))
    larger = f" and output.upscale: {scale} for {scale * width}x{scale * height}" if scale > 1 else ""
    return (
        f"video is {size[0]}x{size[1]}; {limits.name} was trained on"
        f" {' and '.join(f'{w}x{h}' for w, h in limits.trained_sizes)}, use {width}x{height}{larger}"
    )


def check_trained_size(storyboard: Storyboard, limits: ModelLimits) -> None:
    """Raise `SpecError` for a size that the model was not trained on."""
    if mistake := untrained_size(storyboard, limits):
        raise SpecError(f"{mistake}, or add --any-size to render it all the same")


def _far(size: tuple[int, int], other: tuple[int, int]) -> float:
    """How far two sizes are from each other, as a sum of factors' logarithms."""
    return sum(abs(log(one / two)) for one, two in zip(size, other, strict=True))


def check_against(storyboard: Storyboard, limits: ModelLimits) -> None:
    """Raise one `SpecError` that lists everything in `storyboard` that the model cannot render."""
    mistakes = list(_beyond(storyboard, limits))
    if mistakes:
        raise SpecError("\n".join(mistakes))


def _beyond(storyboard: Storyboard, limits: ModelLimits) -> Iterator[str]:
    yield from _unusable_files(storyboard, limits)
    if limits.needs_picture:
        yield from _without_picture(storyboard, limits)
    for side, size, allowed in (
        ("width", storyboard.video.width, limits.width),
        ("height", storyboard.video.height, limits.height),
    ):
        if size not in allowed.nearest(size):
            yield (
                f"video.{side} is {size}; {limits.name} renders multiples of {allowed.multiple} from {allowed.minimum}"
                f" to {allowed.maximum}, use {' or '.join(map(str, allowed.nearest(size)))}"
            )
    if not limits.min_fps <= storyboard.video.fps <= limits.max_fps:
        slowest, fastest = limits.min_fps, limits.max_fps
        fix = f"{slowest} only, use that" if slowest == fastest else f"{slowest} to {fastest}, use a rate of these"
        yield f"video.fps is {storyboard.video.fps}; {limits.name} renders {fix}"
    if storyboard.audio.sample_rate not in limits.sample_rates:
        rates = " or ".join(map(str, limits.sample_rates))
        yield f"audio.sample_rate is {storyboard.audio.sample_rate}; {limits.name} renders {rates}, use that"
    for index, scene in enumerate(storyboard.scenes):
        num_words = len(scene.prompt.split())
        if num_words > limits.max_prompt_words:
            yield (
                f"scenes[{index}].prompt has {num_words} words; {limits.name} reads {limits.max_prompt_words},"
                f" shorten it or split the scene"
            )
    seconds = sum(storyboard.durations_s())
    if limits.max_duration_s is not None and seconds > limits.max_duration_s:
        yield (
            f"scenes last {float(seconds):g} s together; {limits.name} renders {float(limits.max_duration_s):g} s,"
            f" shorten them"
        )


def _unusable_files(storyboard: Storyboard, limits: ModelLimits) -> Iterator[str]:
    for file in storyboard.conditioning_files():
        if file.kind not in limits.given:
            others = f"can be given {' and '.join(sorted(limits.given))} only" if limits.given else "reads prompts only"
            yield f"{file.key} is {file.url!r}; {limits.name} {others}, leave it out or use another model"
    for index, scene in enumerate(storyboard.scenes):
        if scene.image is not None and index and scene.transition != "cut":
            yield f"scenes[{index}].image is {scene.image!r}; a picture opens a scene, add transition: cut to it"
        yield from _contradictory_footage(f"scenes[{index}]", scene)
        if scene.is_shown_as_given and storyboard.audio.file is not None:
            yield (
                f"scenes[{index}].video is {scene.video!r} and audio.file gives the sound: nothing is left to render;"
                " leave one out, or add a mask or a strength"
            )
    first = storyboard.scenes[0]
    if storyboard.continue_from is not None and (first.image is not None or first.transition == "cut"):
        has = "an image" if first.image is not None else "transition: cut"
        yield f"continue_from is {storyboard.continue_from!r}, but scenes[0] has {has}; leave one of the two out"


def _contradictory_footage(name: str, scene: Scene) -> Iterator[str]:
    """What a scene called `name` says of its footage that does not go together."""
    if scene.video is None:
        for key in ("mask", "strength"):
            if getattr(scene, key) is not None:
                yield f"{name}.{key} is {getattr(scene, key)!r}; it changes footage, add {name}.video"
    elif stills := [key for key in ("image", "images", "last_image") if getattr(scene, key)]:
        yield f"{name}.video is {scene.video!r}; its picture is given already, leave out {' and '.join(stills)}"
    if scene.mask is None and scene.keep == "inside":
        yield f"{name}.keep is {scene.keep!r}; it names a side of a mask, add {name}.mask"
    if scene.strength == 0:
        yield f"{name}.strength is 0; that changes nothing, leave it out to keep the picture as it is"


def _without_picture(storyboard: Storyboard, limits: ModelLimits) -> Iterator[str]:
    for index, (scene, cut) in enumerate(zip(storyboard.scenes, storyboard.cuts(), strict=True)):
        if cut and scene.image is None and (index or storyboard.continue_from is None):
            other = "transition: continue" if index else "continue_from to the film"
            yield f"scenes[{index}].image is missing; {limits.name} only continues pictures, add one, or {other}"
