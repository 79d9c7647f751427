"""The frames of one encoded segment, as a player shows them.

Shapes: f frames, h height, w width.
"""

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.read import to_rgb
from longtake.pipeline.values import Segment


def segment_frames(segment: Segment) -> NDArray[np.uint8]:
    """Decode a segment's packets to uint8 [f h w 3], RGB: the same values as `read_film` reads from the film.

    A segment is a closed GOP, so it is decoded alone.

    Raises:
        MediaError: the packets do not hold as many frames as the segment.
    """
    decoder = av.CodecContext.create(segment.format.codec, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = segment.format.extradata
    decoder.thread_count = 1
    packets = [av.Packet(packet.data) for packet in segment.packets]
    frames = [to_rgb(frame) for packet in (*packets, None) for frame in decoder.decode(packet)]
    if len(frames) != len(segment.packets):
        raise MediaError(f"segment {segment.span.index} holds {len(segment.packets)} packets, but {len(frames)} frames")
    return np.stack(frames)
