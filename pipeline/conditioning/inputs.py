"""The inputs that condition a film: one class for each kind of file.

A new kind of input is a class here, a line in `INPUTS`, and a key of the storyboard that is marked with its name.
"""

from collections.abc import Mapping

from longtake.pipeline.conditioning.base import ConditioningInput
from longtake.pipeline.conditioning.film_before import FilmBefore
from longtake.pipeline.conditioning.footage import Footage, Mask
from longtake.pipeline.conditioning.sound import WholeSound
from longtake.pipeline.conditioning.stills import FirstImage, Keyframe, LastImage
from longtake.pipeline.given_files import ConditioningKind

INPUTS: Mapping[ConditioningKind, type[ConditioningInput]] = {
    each.kind: each for each in (FirstImage, Keyframe, LastImage, Footage, Mask, FilmBefore, WholeSound)
}
"""The class of each kind of conditioning file."""
