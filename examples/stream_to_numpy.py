"""Take frames and sound as numpy arrays while the film is still being rendered.

python examples/stream_to_numpy.py [OUT]
"""

import sys

import numpy as np

import longtake

STORYBOARD = {
    "scenes": [{"prompt": "a green triangle bounces fast on a dark background", "duration": "4s"}],
    "sampling": {"steps": 4},
}


def main(output: str = "out/stream") -> None:
    """Print the brightness and the loudness of every chunk as soon as it is finished."""
    frames, samples = 0, 0
    for chunk in longtake.stream(STORYBOARD, output, in_process=True):
        brightness = chunk.frames.mean() / 255  # uint8 [n h w 3]
        loudness_db = 10 * np.log10(np.mean(chunk.sound**2) + 1e-12)  # float32 [samples channels]
        print(f"chunk {chunk.index} at {chunk.start_s:.2f} s: brightness {brightness:.2f}, sound {loudness_db:.0f} dB")
        frames, samples = frames + len(chunk.frames), samples + len(chunk.sound)
    print(f"{frames} frames, {samples} samples")


if __name__ == "__main__":
    main(*sys.argv[1:])
