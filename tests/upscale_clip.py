"""Footage that tests upscale: two scenes of 32x24, 25 pictures a second, with sound; and what they compare of it."""

from fractions import Fraction
from hashlib import sha256

import av
import numpy as np

WIDTH, HEIGHT, RATE = 32, 24, 25
FRAMES, CUT = 60, 33


def picture(number):
    """A texture that glides; another one, darker, from the cut on."""
    scene = int(number >= CUT)
    rng = np.random.default_rng(scene)
    texture = rng.integers(0, 255, (HEIGHT // 4, WIDTH // 4 + FRAMES // 4, 3)).repeat(4, 0).repeat(4, 1)
    seen = texture[:, number % FRAMES :][:, :WIDTH]
    return (seen // 4 if scene else seen // 2 + 128).astype(np.uint8)


def write_clip(path, num_frames=FRAMES, *, sound=True):
    """Write the footage to `path`; its path as a string."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=RATE, options={"qp": "12", "g": "30"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number in range(num_frames):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        out.mux(video.encode(None))
        if audio is not None:
            for start in range(0, num_frames * 16_000 // RATE, 1024):
                wave = np.sin(np.arange(start, start + 1024) / 9, dtype=np.float32)[None] / 2
                frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return str(path)


def packets_of(path):
    """Hashes of every stream's packets and their times, by kind."""
    digests = {}
    with av.open(str(path)) as film:
        for packet in film.demux():
            if packet.size:
                digest = digests.setdefault(packet.stream.type, sha256())
                digest.update(bytes(packet) + repr((packet.pts, packet.duration, packet.time_base)).encode())
    return {kind: digest.hexdigest() for kind, digest in digests.items()}
