"""Readers of films against mutated files, in processes of their own: no crash, no hang, no error but a sentence."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, Queue
from threading import Thread

from longtake.jobs.bench.figures import BenchOptions

_DEADLINE_S = 600.0  # a sound whose time is hours away is measured after hours of silence
_STARTING_S = 120.0


@dataclass
class _Series:
    """What became of the files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: int = 0

    def fault(self, what: str) -> None:
        """Count a fault, and print it at once."""
        self.faults += 1
        print(what, file=sys.stderr, flush=True)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Read mutated files with every reader."""
    files, first, seen = options.pick(full=10_000, quick=300, smoke=4), 0, _Series()
    while first < files:
        first = _run(options.seed, first, files, seen)
    return {
        "files": files,
        "read": seen.outcomes["read"],
        "refused": seen.outcomes["refused"],
        "faults": seen.faults,
    }


def _run(seed: int, first: int, stop: int, seen: _Series) -> int:
    """Read files until one ends the process; the number of the file to go on with."""
    call = [sys.executable, "-m", "longtake.pipeline.testing.film_fuzz", *map(str, (seed, first, stop))]
    began, number = "", first
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in _lines(child):
            if not began:
                began, number = line, int(line.partition(" ")[0])
                continue
            outcome = line.partition(" ")[2]
            seen.outcomes[outcome] += 1
            if outcome not in {"read", "refused"}:
                seen.fault(f"{began}: {outcome}")
            began = ""
        if child.poll() is None:
            child.kill()
            seen.fault(f"{began or number}: no answer after {_DEADLINE_S:g} s")
        elif child.returncode or began or number + 1 < stop:
            seen.fault(f"{began or number}: the process ended with {child.returncode}")
    return number + 1


def _lines(child: "subprocess.Popen[str]") -> Iterator[str]:
    """Lines as they come; ends when the process does, or when none comes in time."""
    lines: Queue[str | None] = Queue()
    Thread(target=_read, args=(child, lines), daemon=True).start()
    patience = _STARTING_S
    while True:
        try:
            line = lines.get(timeout=patience)
        except Empty:
            return
        if line is None:
            child.wait()
            return
        yield line
        patience = _DEADLINE_S


def _read(child: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    assert child.stdout is not None, "it was asked for"
    for line in child.stdout:
        lines.put(line.strip())
    lines.put(None)
