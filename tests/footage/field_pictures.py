"""H.264 whose pictures are coded field by field (PAFF), which no encoder here writes: uncompressed, by ITU-T H.264."""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT, RATE = 32, 32, 25
_ROWS = HEIGHT // 2


class _Bits:
    def __init__(self):
        self.text = ""

    def u(self, value, count):
        self.text += format(value, f"0{count}b")
        return self

    def ue(self, *values):
        for value in values:
            text = format(value + 1, "b")
            self.text += "0" * (len(text) - 1) + text
        return self

    def aligned(self, stop=True):
        self.text += "1" if stop else ""
        self.text += "0" * (-len(self.text) % 8)
        return self

    def bytes(self):
        return int(self.text, 2).to_bytes(len(self.text) // 8, "big") if self.text else b""


def _nal(head, payload):
    """With the bytes that keep a start code from appearing (7.4.1)."""
    out, zeros = bytearray(), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([head]) + bytes(out)


def _parameter_sets():
    sps = _Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 0, 4, 1).u(0, 1).ue(WIDTH // 16 - 1, _ROWS // 16 - 1)
    sps.u(0, 1).u(0, 1).u(1, 1).u(0, 1).u(0, 1).aligned()  # pictures may be fields; none is of both kinds of blocks
    pps = _Bits().ue(0, 0).u(0, 1).u(0, 1).ue(0, 0, 0).u(0, 1).u(0, 2).ue(0, 0, 0).u(1, 1).u(0, 1).u(0, 1).aligned()
    return _nal(0x67, sps.bytes()) + _nal(0x68, pps.bytes())


def _field(luma, number, bottom):
    """One field [h w] as a slice of uncompressed blocks; the first of a picture is an IDR picture."""
    head = _Bits().ue(0, 7, 0).u(0, 4).u(1, 1).u(bottom, 1)
    if not bottom:
        head.ue(number % 2)
    head.u(bottom, 8).u(0, 1 if bottom else 2).ue(0, 1)  # the picture's order, marking, no quantiser, no filter
    data, bits = b"", head
    for top in range(0, _ROWS, 16):
        for left in range(0, WIDTH, 16):
            data += bits.ue(25).aligned(stop=False).bytes()
            data += luma[top : top + 16, left : left + 16].tobytes() + b"\x80" * 128
            bits = _Bits()
    return _nal(0x61 if bottom else 0x65, data + b"\x80")


def write_fields(path, pictures, apart=False):
    """Write luma pictures [n h w], each as two fields.

    Args:
        apart: each field is a packet of its own, as broadcasters send it.
    """
    raw = path.with_suffix(".h264")
    parts = []
    for number, picture in enumerate(pictures):
        top, bottom = (_field(np.ascontiguousarray(picture[at::2]), number, at) for at in (0, 1))
        parts += [b"\0\0\0\1\x09\xf0" + _parameter_sets() + top, b"\0\0\0\1\x09\xf0" + bottom]
    raw.write_bytes(b"".join(parts))
    if path == raw:
        return str(path)
    with av.open(str(raw)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        packets = parts if apart else [parts[at] + parts[at + 1] for at in range(0, len(parts), 2)]
        step = Fraction(1, 2 * RATE) if apart else Fraction(1, RATE)
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 90_000)
            packet.pts = packet.dts = round(number * step * 90_000)
            packet.duration, packet.is_keyframe = round(step * 90_000), number % 2 == 0 or not apart
            out.mux_one(packet)
    return str(path)
