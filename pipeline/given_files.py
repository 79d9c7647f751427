"""The files that a storyboard names: those that condition the film, by their kinds, and others."""

from dataclasses import dataclass
from typing import Literal

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
