"""Decode: clean latents become frames and sound, chunk by chunk, as if the whole film were decoded at once."""

import torch
from einops import rearrange
from torch import Tensor

from pipeline.clock import MediaClock
from pipeline.models.protocols import DecoderState, StreamDecoder
from pipeline.values import FrameChunk, LatentChunk, SoundChunk


class DecodeStage:
    """Decodes chunks in order, carrying each decoder's tail from one to the next and dropping it at a cut."""

    def __init__(self, video_decoder: StreamDecoder, sound_decoder: StreamDecoder, clock: MediaClock) -> None:
        self.video_decoder, self.sound_decoder, self.clock = video_decoder, sound_decoder, clock
        self._video_tail: DecoderState = None
        self._sound_tail: DecoderState = None
        self._sample = 0

    @torch.inference_mode()
    def __call__(self, latents: LatentChunk) -> tuple[FrameChunk, SoundChunk]:
        """The chunk's frames, and the sound that has become final with it."""
        span = latents.span
        if span.index == span.section:
            self._video_tail = self._sound_tail = None
            self._sample = span.audio_latents.start * self.clock.audio_stride
        video, self._video_tail = self.video_decoder.decode(
            latents.video.unsqueeze(0), self._video_tail, span.ends_section
        )
        sound, self._sound_tail = self.sound_decoder.decode(
            latents.audio.unsqueeze(0), self._sound_tail, span.ends_section
        )
        frames = FrameChunk(span, to_uint8(video[0])[: len(span.frames)])
        return frames, self._place(sound, span.samples.stop if span.ends_section else None)

    def _place(self, sound: Tensor, stop: int | None) -> SoundChunk:
        """Put sound [c n] on the film's clock; at a section's end nothing may reach beyond `stop`."""
        pcm = sound[:, : None if stop is None else stop - self._sample].float().clamp(-1, 1)
        chunk = SoundChunk(self._sample, self.clock.sample_rate, pcm.contiguous())
        self._sample = chunk.stop_sample
        return chunk


def to_uint8(video: Tensor) -> Tensor:
    """Frames [f 3 h w] in -1..1 to uint8 RGB [f h w 3]."""
    return rearrange((video.clamp(-1, 1) + 1) * 127.5, "f c h w -> f h w c").round().to(torch.uint8).contiguous()
