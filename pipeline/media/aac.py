"""One AAC encoder for a whole film: a new encoder for each chunk would add 1408 samples of silence every time.

Shapes: c channels, n samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.packet import Packet

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.ffmpeg import reported
from longtake.pipeline.media.mp4 import Sample, Track
from longtake.pipeline.values import SoundChunk

_LAYOUTS = {1: "mono", 2: "stereo"}
# The sampling frequencies of AAC (ISO/IEC 14496-3, table 1.18).
_SAMPLE_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_MAX_BITS_PER_SAMPLE = 6  # 6144 bits to a frame of 1024 samples and one channel
_BIT_RATE_PER_CHANNEL = 96_000
_AAC_LC = "mp4a.40.2"


class AacEncoder:
    """Takes a film's sound piece by piece, without gap or overlap, and gives AAC-LC packets.

    The pieces' borders leave no trace: the same sound gives the same packets however it was cut.

    Args:
        sample_rate: samples per second; one of AAC's.
        channels: 1 or 2.

    Raises:
        MediaError: AAC has no such rate, or there is no such layout.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        if sample_rate not in _SAMPLE_RATES:
            raise MediaError(f"AAC has no sample rate of {sample_rate}; resample to one of {_SAMPLE_RATES}")
        if channels not in _LAYOUTS:
            raise MediaError(f"sound with {channels} channels cannot be published; mix it to 1 or 2")
        self.sample_rate = sample_rate
        self.channels = channels
        self.num_samples = 0
        # The encoder belongs to a stream of a file that is never written, so that MP4s can copy its parameters.
        self._nowhere = av.open(BytesIO(), "w", format="null")
        bit_rate = min(_BIT_RATE_PER_CHANNEL, _MAX_BITS_PER_SAMPLE * sample_rate) * channels
        stream = self._nowhere.add_stream("aac", rate=sample_rate, layout=_LAYOUTS[channels], bit_rate=bit_rate)
        self._encoder = stream.codec_context
        self._encoder.thread_count = 1
        with reported(f"opening an AAC encoder for {channels} channels at {sample_rate} Hz"):
            self._nowhere.start_encoding()
        extradata = bytes(self._encoder.extradata or b"")
        self.track = Track(stream, extradata, sample_rate, _AAC_LC)

    def encode(self, sound: SoundChunk) -> tuple[Sample, ...]:
        """The packets that `sound` completes; its last samples may stay inside until more come."""
        self._check(sound)
        start, self.num_samples = self.num_samples, sound.stop_sample
        if start == self.num_samples:
            return ()
        frame = AudioFrame.from_ndarray(sound.pcm.cpu().contiguous().numpy(), "fltp", _LAYOUTS[self.channels])
        frame.sample_rate = self.sample_rate
        frame.pts, frame.time_base = start, Fraction(1, self.sample_rate)
        with reported(f"encoding sound samples {start}..{self.num_samples - 1}"):
            return _samples(self._encoder.encode(frame))

    def flush(self) -> tuple[Sample, ...]:
        """The last packets; together all packets cover the priming and exactly `num_samples`."""
        with reported("finishing the sound"):
            return _samples(self._encoder.encode(None))

    def close(self) -> None:
        """Release the encoder; `track` must not be used afterwards."""
        self._nowhere.close()

    def _check(self, sound: SoundChunk) -> None:
        if (sound.sample_rate, sound.pcm.shape[0]) != (self.sample_rate, self.channels):
            raise MediaError(
                f"sound at sample {sound.start_sample} has {sound.pcm.shape[0]} channels at {sound.sample_rate} Hz;"
                f" the film has {self.channels} at {self.sample_rate} Hz from its start, keep to them"
            )
        if sound.start_sample != self.num_samples:
            raise MediaError(
                f"sound continues at sample {sound.start_sample}, but the film's sound ends at {self.num_samples};"
                " publish every chunk once, in order"
            )


def _samples(packets: Sequence[Packet[Any]]) -> tuple[Sample, ...]:
    return tuple(Sample(packet.pts or 0, packet.duration or 0, True, bytes(packet)) for packet in packets)
