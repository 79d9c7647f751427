"""The transparency of VP8 and VP9 in Matroska and WebM: a second picture next to each packet.

FFmpeg's own decoders do not look there; those of libvpx do, and give the same colours.
"""

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from longtake.pipeline.media.source import codec_name

_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def alpha_decoder(stream: VideoStream) -> VideoCodecContext | None:
    """A decoder of the pictures with their transparency; None for a stream whose own decoder suffices."""
    marks = {stream.metadata.get(name) for name in ("alpha_mode", "ALPHA_MODE")}
    name = _DECODERS.get(codec_name(stream))
    if name is None or "1" not in marks:
        return None
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext), "the decoder of a picture"
    decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1
    return decoder
