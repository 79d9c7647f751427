"""A scene of a storyboard: its prompt, how long it lasts, and what is given of it."""

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

from longtake.pipeline.durations import check_duration, check_moment, seconds_at
from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import Conditions
from longtake.pipeline.yaml_spec import Place, Spec, Words, number


def _images(value: object) -> object:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise SpecError("use pictures at moments of the scene, such as {0s: a.png, 2.5s: b.png}")
    return tuple((check_moment(at), url) for at, url in value.items())


def _mask(value: object) -> object:
    if value is None or isinstance(value, str | tuple):
        return value
    if not isinstance(value, dict) or not value:
        raise SpecError("use a file, or boxes over time such as {0s: [0.1, 0.2, 0.5, 0.9], 2s: [0.4, 0.2, 0.8, 0.9]}")
    for at, box in value.items():
        check_moment(at)
        sides = box if isinstance(box, list | tuple) else ()
        fine = len(sides) == 4 and all(type(side) in (int, float) and 0 <= side <= 1 for side in sides)
        if not fine or sides[0] >= sides[2] or sides[1] >= sides[3]:
            raise SpecError(
                f"the box at {at} is {box!r}; use its left, top, right and bottom edge from 0 to 1, such as"
                " [0.1, 0.2, 0.5, 0.9]"
            )
    return tuple(value.items())


def _negative(value: object) -> object:
    if value is not None and not isinstance(value, str):
        raise SpecError("use text; put it in quotes if it looks like a number, and use '' for none")
    return value.strip() if isinstance(value, str) else value


Negative = Annotated[str | None, BeforeValidator(_negative)]
"""A negative prompt, "" for none; None for that of the film, or of the model."""


Share = Annotated[float, number(0, 1)]


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


class Scene(Spec):
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
    duration: Annotated[str, BeforeValidator(check_duration)]
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
