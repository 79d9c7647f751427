"""Decode: clean latents become frames and sound, chunk by chunk, with the bits of one decode of the whole film."""

from collections.abc import Callable

import torch
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.guards import guard, precision
from longtake.pipeline.media.picture import to_uint8
from longtake.pipeline.models.protocols import DecoderState, FilmModel
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.stages.denoise import FinishedLatents, find
from longtake.pipeline.values import FrameChunk, LatentChunk, SoundChunk


class DecodeStage:
    """Decodes chunks. It carries each decoder's tail from one chunk to the next and drops it at a cut. After a gap it
    first decodes the decoders' left context again, from finished latents.

    A chunk comes with the later ones that its frames depend on. Its sound is returned as far as it is final, and the
    rest with the next chunk. Pictures of several chunks may be decoded in one pass (see `FilmPlan.decode_batch`), and
    always those of the same chunks, so that a film has the same bits wherever it resumes.

    Args:
        model: its codecs decode.
        plan: of the film.
        finished: where to find latents that this stage has not decoded itself.
        given_sound: samples [c n] of a sound that is given for the whole film and is published as it is.
        frames_ahead: the frames after a chunk that are returned with it; None returns none.
        given_picture: frames of the film, uint8 [f h w 3], as they are shown, of those that were decoded; None shows
            the latter.
    """

    def __init__(
        self,
        model: FilmModel,
        plan: FilmPlan,
        finished: FinishedLatents,
        given_sound: Callable[[range], Tensor] | None = None,
        frames_ahead: Callable[[ChunkSpan], range] | None = None,
        given_picture: Callable[[range, Tensor], Tensor] | None = None,
    ) -> None:
        self.video_decoder, self.sound_decoder = model.video_codec, model.sound_codec
        self._model, self._plan, self._finished, self._given_sound = model, plan, finished, given_sound
        self._frames_ahead, self._given_picture = frames_ahead, given_picture
        self._video_tail: DecoderState = None
        self._sound_tail: DecoderState = None
        self._frames: Tensor | None = None
        self._frame = self._sample = 0
        self._next: int | None = None
        self._to_see = 0
        self._unseen: list[LatentChunk] = []

    @torch.inference_mode()
    def __call__(self, latents: LatentChunk, *ahead: LatentChunk) -> tuple[FrameChunk, SoundChunk]:
        """The chunk's frames, and the sound that has become final with it.

        Args:
            ahead: the chunks after it, up to the last one that its frames, and those returned with it, depend on.
        """
        span = latents.span
        if span.index == span.section or span.index != self._next:
            self._stand_before(span)
        for chunk in (latents, *ahead):
            self._see(chunk)
        shown = self._shown(span.frames)
        frames = FrameChunk(span, shown, None if self._frames_ahead is None else self._ahead(self._frames_ahead(span)))
        sound = self._heard(latents)
        self._next = span.index + 1
        if self._given_sound is not None:
            pcm = self._given_sound(span.samples).float()
            return frames, SoundChunk(span.samples.start, self._plan.clock.sample_rate, pcm.contiguous())
        return frames, self._place(sound, span.samples.stop if span.ends_section else None)

    def _stand_before(self, span: ChunkSpan) -> None:
        """Restore the tails of an undisturbed run before this chunk: none where its section begins."""
        clock, opening = self._plan.clock, self._plan.span(span.section)
        self._video_tail, self._sound_tail, self._unseen = None, None, []
        history, first = self._plan.decode_history(span), self._plan.batch_start(span)
        self._to_see = (history or [span])[0].index
        for chunk in history:
            latents = find(self._finished, chunk)
            self._see(latents)
            self._heard(latents)
        self._frames = None
        final = max(0, first.latents.start - self.video_decoder.lookahead - opening.latents.start)
        self._frame = opening.frames.start + clock.frames(final)
        complete = max(opening.audio_latents.start, span.audio_latents.start - self.sound_decoder.lookahead)
        self._sample = complete * clock.audio_stride

    def _see(self, latents: LatentChunk) -> None:
        """Decode a chunk's frames once its batch is complete, unless that was done for an earlier chunk that depends on
        them."""
        span = latents.span
        if span.index < self._to_see:
            return
        self._unseen.append(latents)
        self._to_see = span.index + 1
        if not self._plan.ends_batch(span):
            return
        video = torch.cat([chunk.video for chunk in self._unseen]).unsqueeze(0).to(self._model.device)
        new, self._video_tail = self.video_decoder.decode(video, self._video_tail, span.ends_section)
        first, self._unseen = self._unseen[0].span.index, []
        where = f"chunk {span.index}" if first == span.index else f"chunks {first} to {span.index}"
        guard("decode", "frames of the picture", new, where, precision(self.video_decoder))
        self._frames = new[0] if self._frames is None else torch.cat((self._frames, new[0]))

    def _shown(self, frames: range) -> Tensor:
        """These frames in uint8. They and all earlier frames are dropped from memory."""
        assert self._frames is not None, "a chunk is decoded before its frames are returned"
        skipped, stop = frames.start - self._frame, frames.stop - self._frame
        shown, rest = self._frames[skipped:stop], self._frames[stop:]
        self._frames, self._frame = rest.clone() if len(rest) else None, frames.stop
        return self._with_given(frames, to_uint8(shown))

    def _ahead(self, frames: range) -> Tensor | None:
        """These frames right after those that were returned last, in uint8; they are kept."""
        if not frames:
            return None
        assert self._frames is not None, "the latents of the frames ahead came with the chunk"
        return self._with_given(frames, to_uint8(self._frames[: len(frames)]))

    def _with_given(self, frames: range, decoded: Tensor) -> Tensor:
        return decoded if self._given_picture is None else self._given_picture(frames, decoded)

    def _heard(self, latents: LatentChunk) -> Tensor:
        """The sound [c n] that becomes final with a chunk."""
        audio = latents.audio.unsqueeze(0).to(self._model.device)
        sound, self._sound_tail = self.sound_decoder.decode(audio, self._sound_tail, latents.span.ends_section)
        guard("decode", "samples of the sound", sound, f"chunk {latents.span.index}", precision(self.sound_decoder))
        return sound

    def _place(self, sound: Tensor, stop: int | None) -> SoundChunk:
        """Place sound [c n] on the film's clock. Samples after `stop`, the section's end, are dropped, and so are those
        before the film's first sample, which belong to the film that it continues."""
        start = self._sample
        pcm = sound[:, : None if stop is None else stop - start].float().clamp(-1, 1).cpu()
        self._sample = start + pcm.shape[1]
        return SoundChunk(max(0, start), self._plan.clock.sample_rate, pcm[:, max(0, -start) :].contiguous())
