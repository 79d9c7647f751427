"""The values of the pipeline: conditioning -> latents -> frames and sound -> segment. Sizes are checked here, once.

Shapes: f frames or latent frames, k given ones, c channels, h height, w width, l tokens, d width, n samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import ShapeError


@dataclass(frozen=True)
class PromptEmbedding:
    """A prompt as the denoiser reads it.

    Args:
        tokens: [l d].
        seen: bool [l]: the tokens that are attended to, for a model that masks the padding of its prompts; None for
            all tokens.
    """

    text: str
    tokens: Tensor
    seen: Tensor | None = None

    def __post_init__(self) -> None:
        _check("PromptEmbedding.tokens", self.tokens, (None, None))
        if self.seen is not None:
            _check("PromptEmbedding.seen", self.seen, (len(self.tokens),))

    @property
    def masks(self) -> dict[str, Tensor]:
        """The argument `seen` of `KVStore.open`."""
        return {} if self.seen is None else {"text": self.seen.unsqueeze(0)}


@dataclass(frozen=True)
class GivenLatents:
    """Latents of one stream that are given. What is held of them is not rendered.

    Args:
        places: their indices, counted from the stream's first latent, ascending.
        values: a row for each of them, [k c h w] for video and [k c] for audio.
        held: how much of each is held, from 0 to 1, [k 1 h w]; None for all.
        level: the noise level from which a stream whose latents are all given is rendered where it is not held. 1 is
            noise alone.
    """

    places: tuple[int, ...]
    values: Tensor
    held: Tensor | None = None
    level: float = 1.0

    def __post_init__(self) -> None:
        if len(self.values) != len(self.places):
            raise ShapeError(f"GivenLatents has {len(self.values)} values for {len(self.places)} places")
        if self.held is not None:
            _check("GivenLatents.held", self.held, (len(self.places), 1, *self.values.shape[2:]))


@dataclass(frozen=True)
class Given:
    """The latents of one chunk that are given, by stream. The others are rendered to fit them.

    With one video latent given, the film starts from an image. With all audio latents given, the picture is rendered
    to a sound. With all video latents given, the sound is rendered to a picture. With the first and the last latents
    of a scene given, the latents in between are rendered.
    """

    span: ChunkSpan
    streams: Mapping[str, GivenLatents]

    def __post_init__(self) -> None:
        counts = {"video": len(self.span.latents), "audio": len(self.span.audio_latents)}
        for name, stream in self.streams.items():
            if any(not 0 <= place < counts[name] for place in stream.places):
                raise ShapeError(
                    f"Given.streams[{name!r}] names places {stream.places}; chunk {self.span.index} has"
                    f" {counts[name]} {name} latents"
                )


@dataclass(frozen=True)
class Conditioning:
    """What steers the denoiser for one chunk: a prompt for each guidance branch, and the latents that are given.

    Args:
        prompts: "guided", and "unguided" if guidance is used.
        given: None if all latents are rendered.
    """

    prompts: Mapping[str, PromptEmbedding]
    given: Given | None = None


@dataclass(frozen=True)
class LatentChunk:
    """Clean latents of one chunk, both modalities together, in the dtype in which they were computed.

    Args:
        video: [f c h w], one row per video latent of `span`.
        audio: [l c], one row per audio latent of `span`.
    """

    span: ChunkSpan
    video: Tensor
    audio: Tensor

    def __post_init__(self) -> None:
        _check("LatentChunk.video", self.video, (len(self.span.latents), None, None, None))
        _check("LatentChunk.audio", self.audio, (len(self.span.audio_latents), None))


@dataclass(frozen=True)
class FrameChunk:
    """The picture of one chunk: `frames` is uint8 [f h w 3], RGB, full range, in display order.

    Args:
        ahead: the frames right after the chunk, for an upscaler that looks ahead; like `frames`, of any number.
    """

    span: ChunkSpan
    frames: Tensor
    ahead: Tensor | None = None

    def __post_init__(self) -> None:
        _check("FrameChunk.frames", self.frames, (len(self.span.frames), None, None, 3))
        if self.frames.dtype != torch.uint8:
            raise ShapeError(f"FrameChunk.frames is {self.frames.dtype}; frames are uint8")
        if self.ahead is not None:
            _check("FrameChunk.ahead", self.ahead, (None, *self.frames.shape[1:]))

    @property
    def known(self) -> Tensor:
        """The chunk's frames and those ahead of it, uint8 [f h w 3]."""
        return self.frames if self.ahead is None else torch.cat((self.frames, self.ahead))


@dataclass(frozen=True)
class SoundChunk:
    """The sound that became final with one chunk: `pcm` is float32 [c n] in -1..1, from `start_sample` of the film.

    A sound decoder with look-ahead lags behind the picture, so a chunk's sound need not be the chunk's own
    samples; sound chunks in order tile the film exactly, and the last one ends with the film.
    """

    start_sample: int
    sample_rate: int
    pcm: Tensor

    def __post_init__(self) -> None:
        _check("SoundChunk.pcm", self.pcm, (None, None))
        if self.pcm.dtype != torch.float32:
            raise ShapeError(f"SoundChunk.pcm is {self.pcm.dtype}; sound is float32")

    @property
    def stop_sample(self) -> int:
        """The sample of the film after the last one held."""
        return self.start_sample + self.pcm.shape[1]


@dataclass(frozen=True)
class VideoPacket:
    """One compressed frame. Decode order is display order (no B-frames), and `frame` counts through the film."""

    frame: int
    keyframe: bool
    data: bytes


@dataclass(frozen=True)
class VideoFormat:
    """What a decoder must know before the first packet. All segments of a film have the same."""

    width: int
    height: int
    codec: str
    pix_fmt: str
    extradata: bytes


@dataclass(frozen=True)
class Segment:
    """One encoded chunk: a closed GOP of video packets, and the uncompressed sound that became final with it."""

    span: ChunkSpan
    format: VideoFormat
    packets: tuple[VideoPacket, ...]
    sound: SoundChunk

    def __post_init__(self) -> None:
        if [packet.frame for packet in self.packets] != list(self.span.frames):
            raise ShapeError(
                f"segment {self.span.index} holds {len(self.packets)} packets for frames"
                f" {self.span.frames.start}..{self.span.frames.stop - 1}; one packet per frame, in order"
            )
        if not self.packets[0].keyframe:
            raise ShapeError(f"segment {self.span.index} does not start with a key frame; its GOP is not closed")


def _check(name: str, tensor: Tensor, sizes: tuple[int | None, ...]) -> None:
    got = tuple(tensor.shape)
    if len(got) != len(sizes) or any(want not in (None, have) for want, have in zip(sizes, got, strict=True)):
        wanted = " ".join("*" if size is None else str(size) for size in sizes)
        raise ShapeError(f"{name} is [{' '.join(map(str, got))}]; its span on the clock asks for [{wanted}]")
