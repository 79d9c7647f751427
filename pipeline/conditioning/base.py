"""What every input that conditions a film has in common.

Shapes: f frames, c channels, h height, w width, n samples.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.codecs import ModelCodecs
from longtake.pipeline.conditioning.files import is_film, read_frames, read_or_refuse, read_picture
from longtake.pipeline.given_files import ConditioningFile, ConditioningKind
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.values import GivenLatents, LatentChunk


class ConditioningInput:
    """One file that conditions a film. Each method has a default: the input gives nothing of this sort.

    Args:
        file: as the storyboard names it. It is read when something of it is needed first.
        model: its codecs encode.
        plan: of the film.

    Attributes:
        kind: the kind of files that the class reads.
        gives_sound: whether the film's sound is that of the file.
        gives_picture: whether the film shows pictures of the file as they are.
    """

    kind: ClassVar[ConditioningKind]
    gives_sound: ClassVar[bool] = False
    gives_picture: ClassVar[bool] = False

    def __init__(self, file: ConditioningFile, model: FilmModel, plan: FilmPlan) -> None:
        self.file, self.model, self.plan = file, model, plan
        self.codecs = ModelCodecs(model, plan)

    def check(self) -> list[str]:
        """Notes on the file for the user. Raises `SpecError` if it is unusable."""
        return []

    def latents(self, _chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        """The latents of a chunk that it gives, by stream."""
        return {}

    def before(self, _span: ChunkSpan) -> LatentChunk | None:
        """The latents of a chunk before the film; None if the film does not continue this file."""
        return None

    def picture(self, frames: range, rendered: Tensor) -> Tensor:
        """These frames of the film, uint8 [f h w 3], as they are shown, of those that were rendered."""
        del frames
        return rendered

    def pictures(self, file: ConditioningFile) -> Iterator[Tensor]:
        """The pictures of a file at the film's rate, fitted: [1 3 h w] in -1..1 each. A still is one."""
        video = self.plan.storyboard.video
        if read_or_refuse(file, is_film):
            return read_or_refuse(file, lambda url: read_frames(url, video.fps, video.width, video.height))
        return iter([read_or_refuse(file, lambda url: read_picture(url, video.width, video.height))])

    def sound(self, _samples: range) -> Tensor:
        """These samples of the film's sound, [c n]; only for an input that gives sound."""
        raise NotImplementedError
