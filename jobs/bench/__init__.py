"""`longtake bench`: promises as figures. Every figure is a median over repeats; limits fail the command."""

import importlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

from longtake.pipeline.errors import SpecError

BENCHES = (
    *("batch", "beside-diffusers", "chaos", "endless", "fidelity", "leaks", "open-weights", "parity"),
    *("parity-models", "resume", "road", "scaling", "upscale"),
)


@dataclass(frozen=True)
class BenchOptions:
    """What every bench understands: repeats, a seed, and `quick` for the same limits with smaller work; some compare
    a number of `ranks`."""

    repeat: int = 3
    seed: int = 0
    quick: bool = False
    ranks: int | None = None


@dataclass(frozen=True)
class Figure:
    """What a figure means in a line, and the limit it has to keep, if any."""

    meaning: str
    at_most: float | None = None
    at_least: float | None = None

    def kept(self, value: float) -> bool:
        """Whether `value` keeps the limit."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    @property
    def limit(self) -> float | None:
        """The limit as a number; no figure has two."""
        return self.at_most if self.at_most is not None else self.at_least


@dataclass(frozen=True)
class Bench:
    """A module's bench: its figures, one measurement of all of them, and whether that holds repeats of its own."""

    figures: Mapping[str, Figure]
    measure: Callable[[BenchOptions], Mapping[str, float]]
    once: bool = False


def load_bench(name: str) -> Bench:
    """The bench called `name`; it lives in the module of that name."""
    if name not in BENCHES:
        raise SpecError(f"there is no bench {name!r}; use {', '.join(BENCHES)}")
    bench: Bench = importlib.import_module(f"longtake.jobs.bench.{name.replace('-', '_')}").BENCH
    return bench


def list_benches() -> None:
    """Print every bench and figure with its meaning and limit."""
    table = Table("bench", "figure", "limit", "meaning")
    for name in BENCHES:
        for key, figure in load_bench(name).figures.items():
            sign = "<=" if figure.at_most is not None else ">="
            table.add_row(name, key, "" if figure.limit is None else f"{sign} {figure.limit:g}", figure.meaning)
    Console().print(table)


def run_bench(name: str, options: BenchOptions, *, as_json: bool) -> bool:
    """Measure, print, and tell whether every limit was kept."""
    bench = load_bench(name)
    started = perf_counter()
    runs = [bench.measure(options) for _ in range(1 if options.quick or bench.once else options.repeat)]
    figures = {key: median(run[key] for run in runs) for key in bench.figures}
    spread = {key: [min(run[key] for run in runs), max(run[key] for run in runs)] for key in bench.figures}
    missed = [key for key, figure in bench.figures.items() if not figure.kept(figures[key])]
    if as_json:
        report = {
            "bench": name,
            "figures": {key: float(f"{value:.6g}") for key, value in figures.items()},
            "spread": {key: [float(f"{value:.6g}") for value in ends] for key, ends in spread.items()},
            "limits": {key: figure.limit for key, figure in bench.figures.items() if figure.limit is not None},
            "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
            "seconds": round(perf_counter() - started, 1),
        }
        print(json.dumps(report))
    else:
        for key, figure in bench.figures.items():
            verdict = (
                "" if figure.limit is None else f"  limit {figure.limit:g}, {'MISSED' if key in missed else 'kept'}"
            )
            print(f"{key:>26} {figures[key]:10.4g}  [{spread[key][0]:.4g} .. {spread[key][1]:.4g}]{verdict}")
    return not missed
