"""Render a film on a local Ray cluster, and run again: the second call finds everything finished.

python examples/render.py [OUT]
"""

import sys

import longtake

STORYBOARD = {
    "title": "A first film",
    "seed": 7,
    "scenes": [
        {"prompt": "a red circle bounces fast on a dark background", "duration": "2s"},
        {"prompt": "a blue square bounces slow on a light background", "duration": "2s", "transition": "cut"},
    ],
    "sampling": {"steps": 4},
}


def main(output: str = "out/first-film") -> None:
    """Render, resume, measure."""
    with longtake.cluster():  # starts Ray once for both renders; renders outside this block start their own
        film = longtake.render(STORYBOARD, output)
        again = longtake.render(STORYBOARD, output)  # every chunk is reused
    assert again == film
    print(f"{film.url}: {float(film.duration_s):g} s, {film.num_frames} frames, {film.num_samples} samples")


if __name__ == "__main__":
    main(*sys.argv[1:])
