"""Sounds and stills of every kind: tables of small files, each made in a moment with PyAV.

A sound is a second long, with a click at CLICK_S. A still has 32 rows and 48 columns, all unlike.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from longtake.pipeline.testing.film_kinds import CLICK_S, SAMPLE_RATE

HEIGHT, WIDTH = 32, 48
_SLICE = 960


@dataclass(frozen=True)
class SoundKind:
    """A sound of the table.

    Args:
        late: samples at 48 kHz by which the codec delays the click, and no file says so: FFmpeg plays it so.
    """

    name: str
    codec: str
    layout: str = "mono"
    rate: int = SAMPLE_RATE
    late: int = 0
    container: str | None = None
    muxer: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> str:
        """Write it into `folder`; its path."""
        path = folder / self.name
        with av.open(str(path), "w", format=self.container, options=self.muxer) as out:
            stream: Any = out.add_stream(self.codec, rate=self.rate, layout=self.layout)
            pcm = np.zeros((stream.layout.nb_channels, self.rate), np.int16)
            at = round(CLICK_S * self.rate)
            pcm[:, at : at + self.rate // 2000] = 30_000
            for start in range(0, self.rate, _SLICE):
                part = np.ascontiguousarray(pcm[:, start : start + _SLICE].T.reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout=self.layout)
                frame.sample_rate, frame.pts, frame.time_base = self.rate, start, Fraction(1, self.rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return str(path)


SOUNDS = (
    *(SoundKind(f"{codec}.wav", codec) for codec in ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le")),
    *(SoundKind(f"{codec}.wav", codec) for codec in ("pcm_f64le", "pcm_alaw", "pcm_mulaw")),
    SoundKind("long.wav", "pcm_s16le", muxer={"rf64": "always"}),
    SoundKind("wave.w64", "pcm_s24le"),
    SoundKind("mac.aiff", "pcm_s16be"),
    SoundKind("mac24.aiff", "pcm_s24be", "stereo"),
    SoundKind("core.caf", "pcm_s16be"),
    SoundKind("lossless.caf", "alac"),
    SoundKind("sun.au", "pcm_s16be"),
    SoundKind("five.wav", "pcm_s16le", "5.1"),
    SoundKind("seven.wav", "pcm_s24le", "7.1"),
    SoundKind("seven.flac", "flac", "7.1"),
    SoundKind("five.m4a", "aac", "5.1"),
    SoundKind("seven.opus", "libopus", "7.1"),
    SoundKind("plain.flac", "flac"),
    SoundKind("fine.flac", "flac", rate=96_000),
    SoundKind("ogg.oga", "flac"),
    SoundKind("plain.opus", "libopus"),
    SoundKind("plain.mka", "libopus"),
    SoundKind("plain.mp3", "libmp3lame"),
    SoundKind("low.mp3", "libmp3lame", rate=22_050),
    SoundKind("headless.mp3", "libmp3lame", late=1105, muxer={"write_xing": "0"}),
    SoundKind("radio.mp2", "mp2", late=481),
    SoundKind("plain.m4a", "aac"),
    SoundKind("lossless.m4a", "alac"),
    SoundKind("book.m4b", "aac", container="ipod"),
    SoundKind("stream.aac", "aac", late=1024),
    SoundKind("dolby.ac3", "ac3", late=256),
    SoundKind("dolby.eac3", "eac3", late=256),
    SoundKind("true.tta", "tta"),
    SoundKind("packed.wv", "wavpack"),
    SoundKind("phone.amr", "libopencore_amrnb", rate=8_000, late=514),
    SoundKind("adpcm.wav", "adpcm_ms"),
    SoundKind("windows.asf", "pcm_s16le"),
    SoundKind("radio.ts", "mp2", late=481),
)
"""Sounds."""


@dataclass(frozen=True)
class StillKind:
    """A still of the table.

    Args:
        pix_fmt: of the encoder.
        most: mean difference, in 8-bit units, from what was encoded.
        patch: changes the file's bytes.
    """

    name: str
    codec: str
    pix_fmt: str
    most: float = 1.0
    options: dict[str, str] = field(default_factory=dict)
    patch: Callable[[bytes], bytes] | None = None

    @property
    def is_grey(self) -> bool:
        """Whether it has no colours."""
        return self.pix_fmt.startswith(("gray", "ya", "mono"))

    def write(self, folder: Path) -> str:
        """Write it into `folder`; its path."""
        path = folder / self.name
        encoder = av.CodecContext.create(self.codec, "w")
        assert isinstance(encoder, VideoCodecContext), "the encoder of a picture"
        encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, self.pix_fmt
        encoder.time_base, encoder.options = Fraction(1, 25), self.options
        frame = av.VideoFrame.from_ndarray(slopes(), format="rgb24").reformat(format=self.pix_fmt, threads=1)
        frame.pts = 0
        data = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
        path.write_bytes(self.patch(data) if self.patch else data)
        return str(path)


def slopes() -> NDArray[np.uint8]:
    """The picture [h w 3]: red grows to the right, green downwards."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([20 + 4 * x, 20 + 6 * y, 120 + 0 * x], axis=-1).astype(np.uint8)


def with_profile(png: bytes) -> bytes:
    """The PNG with an ICC profile, as cameras and editors write it (ISO/IEC 15948, 11.3.3.3)."""
    content = b"iCCP" + b"Display P3\0\0" + zlib.compress(bytes(128))
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    after_head = 8 + 25
    return png[:after_head] + chunk + png[after_head:]


_FINE = {"q:v": "1", "qmin": "1"}
STILLS = (
    *(StillKind(f"{pix_fmt}.png", "png", pix_fmt) for pix_fmt in ("rgb24", "rgba", "gray", "ya8", "rgb48be")),
    *(StillKind(f"{pix_fmt}.png", "png", pix_fmt) for pix_fmt in ("rgba64be", "gray16be", "ya16be")),
    StillKind("bits.png", "png", "monob", most=128),
    StillKind("profile.png", "png", "rgb24", patch=with_profile),
    StillKind("444.jpg", "mjpeg", "yuvj444p", most=3, options=_FINE),
    StillKind("420.jpg", "mjpeg", "yuvj420p", most=3, options=_FINE),
    StillKind("lossless.webp", "libwebp", "bgra", most=2, options={"lossless": "1"}),
    StillKind("lossy.webp", "libwebp", "yuv420p", most=3, options={"quality": "95"}),
    *(StillKind(f"{pix_fmt}.bmp", "bmp", pix_fmt) for pix_fmt in ("bgr24", "bgra", "gray")),
    *(StillKind(f"{pix_fmt}.tiff", "tiff", pix_fmt) for pix_fmt in ("rgb24", "rgba", "gray", "gray16le", "rgb48le")),
    StillKind("colour.ppm", "ppm", "rgb24"),
    StillKind("deep.ppm", "ppm", "rgb48be"),
    StillKind("grey.pgm", "pgm", "gray"),
    StillKind("any.pam", "pam", "rgba"),
    StillKind("old.tga", "targa", "bgr24"),
    StillKind("old.pcx", "pcx", "rgb24"),
    StillKind("old.sgi", "sgi", "rgb24"),
    StillKind("new.qoi", "qoi", "rgb24"),
    StillKind("film.dpx", "dpx", "gbrp10be"),
    StillKind("light.exr", "exr", "gbrpf32le"),
    StillKind("archive.jp2", "jpeg2000", "rgb24", options={"pred": "1"}),
    StillKind("archive.jls", "jpegls", "rgb24"),
)
"""Stills."""
