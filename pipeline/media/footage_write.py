"""Footage written: pictures encoded in segments that need nothing of each other, then put beside all else.

The front of what `footage_codecs`, `footage_encode` and `footage_mux` do.
"""

from pipeline.media.footage_codecs import CODECS, FootageEncoding
from pipeline.media.footage_encode import FootagePacket, FootageSegment, SegmentEncoder
from pipeline.media.footage_mux import check_output, write_footage

__all__ = [
    "CODECS",
    "FootageEncoding",
    "FootagePacket",
    "FootageSegment",
    "SegmentEncoder",
    "check_output",
    "write_footage",
]
