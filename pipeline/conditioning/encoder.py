"""The files that condition a film, encoded: images, a sound, the end of another film.

Each process encodes what it needs for itself, once. The result is the same everywhere, because the SHA-256 of each
file is part of the journal's keys. The end of another film becomes finished chunks that are numbered from below 0, so
a stage that needs earlier latents reads them like those of any other chunk.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import torch
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.files import read_or_refuse
from longtake.pipeline.conditioning.inputs import INPUTS
from longtake.pipeline.errors import MediaError, SpecError
from longtake.pipeline.media.read import reading
from longtake.pipeline.media.source import bytes_of
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.values import Given, GivenLatents, LatentChunk

_BLOCK_BYTES = 1 << 20


class ConditioningEncoder:
    """The conditioning inputs of a film, by chunk. A file is read when something of it is needed first.

    Args:
        model: its codecs encode.
        plan: of the film.
        held: further latents that are given of a chunk, by stream, in place of those of the files.
    """

    def __init__(
        self,
        model: FilmModel,
        plan: FilmPlan,
        held: Callable[[ChunkSpan], Mapping[str, GivenLatents]] = lambda _: {},
    ) -> None:
        self._held = held
        files = plan.storyboard.conditioning_files()
        self._inputs = [INPUTS[file.kind](file, model, plan) for file in files]

    def __call__(self, chunk: ChunkSpan) -> Given | None:
        """The latents that are given of a chunk; None if all of them are rendered."""
        found: dict[str, list[GivenLatents]] = {}
        for each in self._inputs:
            for name, given in each.latents(chunk).items():
                found.setdefault(name, []).append(given)
        for name, given in self._held(chunk).items():
            found.setdefault(name, []).append(given)
        return Given(chunk, {name: _joined(parts) for name, parts in found.items()}) if found else None

    def before(self, span: ChunkSpan) -> LatentChunk:
        """The latents of a chunk before the film, from the film that it continues."""
        found = (each.before(span) for each in self._inputs)
        return next(latents for latents in found if latents is not None)

    @property
    def sound(self) -> Callable[[range], Tensor] | None:
        """Samples [c n] of the sound that is given for the film, silence after its end; None if it is rendered."""
        return next((each.sound for each in self._inputs if each.gives_sound), None)

    @property
    def picture(self) -> Callable[[range, Tensor], Tensor] | None:
        """Frames of the film, uint8 [f h w 3], as they are shown, of those that were rendered; None if those are."""
        inputs = [each for each in self._inputs if each.gives_picture]

        def shown(frames: range, rendered: Tensor) -> Tensor:
            for each in inputs:
                rendered = each.picture(frames, rendered)
            return rendered

        return shown if inputs else None

    def check(self) -> list[str]:
        """Notes on the files for the user. Raises one `SpecError` that names all unusable files."""
        mistakes, notes = [], []
        for each in self._inputs:
            try:
                notes += each.check()
            except SpecError as error:
                mistakes.append(str(error))
        if mistakes:
            raise SpecError("\n".join(mistakes))
        return notes


def _joined(parts: Sequence[GivenLatents]) -> GivenLatents:
    """Latents that several inputs give of one stream; where two give the same one, the later."""
    if len(parts) == 1:
        return parts[0]
    rows = {place: row for part in parts for place, row in zip(part.places, part.values, strict=True)}
    return GivenLatents(tuple(sorted(rows)), torch.stack([rows[place] for place in sorted(rows)]))


def digests(storyboard: Storyboard) -> dict[str, str]:
    """The SHA-256 of each conditioning file, by key. Raises one `SpecError` that names all unreadable files.

    A file that an earlier version read otherwise has a mark, so that a render that began then makes again what depends
    on it.
    """
    found, mistakes = {}, []
    for file in storyboard.conditioning_files():
        try:
            found[file.key] = read_or_refuse(file, _digest)
        except SpecError as error:
            mistakes.append(str(error))
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return found


def _digest(url: str) -> str:
    digest = sha256()
    with bytes_of(url) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    try:
        return digest.hexdigest() + reading(url)
    except MediaError:  # the input that needs it refuses it by its key
        return digest.hexdigest()
