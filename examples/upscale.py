"""Enlarge a film twice, and compare sizes.

python examples/upscale.py [IN] [OUT]
"""

import sys
from pathlib import Path

import longtake

STORYBOARD = {
    "scenes": [{"prompt": "a blue square bounces fast on a light background", "duration": "1s"}],
    "sampling": {"steps": 2},
}


def main(source: str = "out/small/film.mp4", output: str = "out/large.mp4") -> None:
    """Render a short film if there is none, then upscale it in this process."""
    if not Path(source).exists():
        longtake.render(STORYBOARD, str(Path(source).parent), in_process=True)
    large = longtake.upscale(source, output, scale=2, in_process=True)
    print(f"{large.url}: {large.bytes} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
