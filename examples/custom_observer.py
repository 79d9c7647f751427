"""Follow a render with your own observer: it receives every event that events.jsonl holds.

python examples/custom_observer.py [OUT]
"""

import sys
from collections import defaultdict
from typing import Any

import longtake

STORYBOARD = {
    "scenes": [{"prompt": "a yellow circle glides on a dark background", "duration": "2s"}],
    "sampling": {"steps": 2},
}


class StageTimes:
    """Adds up the seconds that each stage works."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def event(self, name: str, **fields: Any) -> None:
        """Called for every event, such as `denoise.chunk` with chunk, scene and seconds."""
        stage, _, what = name.partition(".")
        if what == "chunk":
            self.seconds[stage] += fields["seconds"]


def main(output: str = "out/observed") -> None:
    """Render with the observer and print where the time went."""
    times = StageTimes()
    longtake.render(STORYBOARD, output, observer=times, in_process=True)
    for stage, seconds in times.seconds.items():
        print(f"{stage:8} {seconds:6.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
