"""Real footage read: an index of exact times, and any range of pictures, bit for bit the same.

The front of what `footage_index` and `footage_pictures` do.
"""

from pipeline.media.footage_index import open_footage
from pipeline.media.footage_pictures import read_pictures
from pipeline.media.footage_values import Chapter, Colour, Footage, LightLevel, MasteringDisplay, OtherStream

__all__ = [
    "Chapter",
    "Colour",
    "Footage",
    "LightLevel",
    "MasteringDisplay",
    "OtherStream",
    "open_footage",
    "read_pictures",
]
