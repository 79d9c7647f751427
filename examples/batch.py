"""Render three takes of one storyboard with different seeds; run it again, and only unfinished takes are rendered.

python examples/batch.py [OUT]
"""

import sys

import longtake

STORYBOARD = {
    "scenes": [{"prompt": "a red circle bounces fast on a dark background", "duration": "1s"}],
    "sampling": {"steps": 2},
}


def main(output: str = "out/batch") -> None:
    """Render the batch and print the state of every take."""
    takes = [{"id": f"seed-{seed}", "storyboard": STORYBOARD, "overrides": [f"seed={seed}"]} for seed in range(3)]
    report = longtake.batch({"takes": takes}, output, gangs=1)
    for take in report.records:
        print(take.id, take.state)
    print(report.url)


if __name__ == "__main__":
    main(*sys.argv[1:])
