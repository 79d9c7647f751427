"""Single pictures.

Shapes: f frames, h w pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import av
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional


def write_png(pixels: Tensor, path: Path) -> None:
    """Write RGB `pixels`, uint8 [h w 3]."""
    frame = av.VideoFrame.from_ndarray(pixels.contiguous().numpy(), format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "rgb24"
    path.write_bytes(b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))))


def contact_sheet(pictures: Sequence[Tensor], columns: int, gap: int = 4) -> Tensor:
    """Pictures of one size, uint8 [h w 3], in rows from the top left on grey, `gap` pixels apart: uint8 [h w 3]."""
    blank = torch.full_like(pictures[0], 96)
    framed = [
        functional.pad(p, (0, 0, 0, gap, 0, gap), value=96) for p in [*pictures, *[blank] * (-len(pictures) % columns)]
    ]
    rows = [torch.cat(framed[start : start + columns], dim=1) for start in range(0, len(framed), columns)]
    return torch.cat(rows)[:-gap, :-gap]


def to_uint8(video: Tensor) -> Tensor:
    """Frames [f 3 h w] in -1..1 to uint8 RGB [f h w 3]."""
    return rearrange((video.clamp(-1, 1) + 1) * 127.5, "f c h w -> f h w c").round().to(torch.uint8).contiguous().cpu()
