"""H.264 encoded chunk by chunk, on any machine and in any order, with the bits of one pass.

Shapes: f frames, h height, w width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from torch import Tensor

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.ffmpeg import EXACT_SCALER, FULL, LIMITED, MATRIX, PRIMARIES, TRANSFER, reported
from longtake.pipeline.values import VideoFormat, VideoPacket

PIX_FMT = "yuv420p"
_MIN_SIZE = 16
_MAX_QP = 51
# No rate control and no look-ahead: nothing that a packet says may depend on the frames of another chunk.
_X264_OPTIONS = {
    "preset": "medium",
    "bf": "0",
    "forced-idr": "1",
    "x264-params": "keyint=infinite:scenecut=0:mbtree=0:rc-lookahead=0:sync-lookahead=0",
}
# The bitstream shows how many frames came before, modulo this: x264 ends the CABAC data of frame n with bit n % 32
# of a constant (common/cabac.c, x264_cabac_encode_flush).
_FRAME_CYCLE = 32


@dataclass(frozen=True)
class GopEncoder:
    """Encodes a film one closed GOP at a time: no B-frames, a fixed quantiser, a fixed number of threads.

    Every GOP gets an encoder of its own, so GOP k needs nothing of GOP k-1 and a crash costs no state. Still the
    packets equal those of one encoder that ran through the whole film, at the same number of threads.

    Args:
        fps: frames per second; the time base is exactly its inverse.
        quality: x264's QP, 0..51; about 18 looks like the original. 0 is lossless and needs profile
            High 4:4:4 Predictive, which browsers do not play.
        threads: encoder threads; part of the film's identity, since x264 writes other bits with another number.
    """

    fps: Fraction
    quality: int
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= _MAX_QP:
            raise MediaError(f"quality is {self.quality}; x264 knows QP 0 (lossless) to {_MAX_QP} (worst)")
        if self.threads < 1:
            raise MediaError(f"threads is {self.threads}; the encoder needs a fixed number of at least 1")

    def encode(self, frames: Tensor, first_frame: int, gop: int) -> tuple[VideoFormat, tuple[VideoPacket, ...]]:
        """Encode one GOP.

        Args:
            frames: uint8 [f h w 3], RGB, full range; h and w even and at least 16.
            first_frame: number of its first frame in the film.
            gop: number of this GOP in the film.

        Raises:
            MediaError: the size is odd or too small, or the encoder failed.
        """
        _, height, width, _ = frames.shape
        _check_size(width, height)
        with reported(f"encoding frames {first_frame}..{first_frame + len(frames) - 1}"):
            encoder = self._open(width, height)
            warm_up = _warm_up_frames(first_frame, gop)
            packets = [packet for frame in _black(width, height, warm_up, gop) for packet in encoder.encode(frame)]
            for number, rgb in enumerate(frames.cpu().contiguous().numpy()):
                frame = _to_yuv(VideoFrame.from_ndarray(rgb))
                frame.pts = warm_up + number
                frame.pict_type = PictureType.NONE if number else PictureType.I
                packets += encoder.encode(frame)
            packets += encoder.encode(None)
            video_format = VideoFormat(width, height, "h264", PIX_FMT, bytes(encoder.extradata or b""))
        return video_format, tuple(
            VideoPacket(first_frame + number, packet.is_keyframe, bytes(packet))
            for number, packet in enumerate(packets[warm_up:])
        )

    def _open(self, width: int, height: int) -> VideoCodecContext:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, PIX_FMT
        encoder.time_base, encoder.framerate = 1 / self.fps, self.fps
        encoder.thread_count = self.threads
        encoder.flags |= Flags.global_header
        encoder.color_range, encoder.colorspace = LIMITED, MATRIX
        encoder.color_primaries, encoder.color_trc = PRIMARIES, TRANSFER
        encoder.options = {**_X264_OPTIONS, "qp": str(self.quality)}
        return encoder


def _check_size(width: int, height: int) -> None:
    for name, size in (("width", width), ("height", height)):
        if size % 2:
            raise MediaError(f"{name} is {size}; H.264 in 4:2:0 needs even sizes: use {size - 1} or {size + 1}")
        if size < _MIN_SIZE:
            raise MediaError(f"{name} is {size}; the encoder needs at least {_MIN_SIZE}")


def _warm_up_frames(first_frame: int, gop: int) -> int:
    """How many black frames a fresh encoder must see to stand where one that encoded the whole film stands.

    Three things in x264's bitstream look back: the banner in the film's first packet, `idr_pic_id`, which
    alternates between GOPs, and the last bit of each frame's CABAC data. Pixels and quantisers do not.
    """
    if gop == 0:
        return 0
    frames = first_frame % _FRAME_CYCLE
    return frames if frames >= 2 else frames + _FRAME_CYCLE


def _black(width: int, height: int, count: int, gop: int) -> Iterator[VideoFrame]:
    """`count` black frames holding an odd number of key frames before an odd GOP, an even one before an even GOP."""
    frame = VideoFrame(width, height, PIX_FMT)
    for plane, value in zip(frame.planes, (16, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    for number in range(count):
        is_key = number == 0 or (number == 1 and gop % 2 == 0)
        frame.pts = number
        frame.pict_type = PictureType.I if is_key else PictureType.NONE
        yield frame


def _to_yuv(frame: VideoFrame) -> VideoFrame:
    return frame.reformat(
        format=PIX_FMT,
        src_colorspace=MATRIX,
        dst_colorspace=MATRIX,
        src_color_range=FULL,
        dst_color_range=LIMITED,
        interpolation=EXACT_SCALER,
        threads=1,
    )
