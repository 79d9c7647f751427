"""`longtake bench`: measure, take medians, compare them with the limits, print."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from statistics import median
from time import perf_counter
from typing import Any

from rich.table import Table

from longtake.jobs.bench.figures import Bench, BenchOptions, Figure, Measure
from longtake.jobs.bench.table import BENCHES
from longtake.jobs.feedback import plain_console
from longtake.pipeline.errors import SpecError
from longtake.pipeline.registry import resolve


def find_bench(name: str) -> Bench:
    """The bench of that name. Raises `SpecError` if there is none."""
    if name not in BENCHES:
        raise SpecError(f"there is no bench {name!r}; use {', '.join(BENCHES)}")
    return BENCHES[name]


def list_benches() -> None:
    """Print every figure of every bench with its limit and its meaning."""
    table = Table("bench", "figure", "limit", "meaning")
    for name, bench in BENCHES.items():
        for key, figure in bench.figures.items():
            sign = "<=" if figure.at_most is not None else ">="
            table.add_row(name, key, "" if figure.limit is None else f"{sign} {figure.limit:g}", figure.meaning)
    plain_console().print(table)


@dataclass(frozen=True)
class Result:
    """The figures of one bench, by key."""

    figures: Mapping[str, Figure]
    medians: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    seconds: float

    @property
    def missed(self) -> list[str]:
        """Figures that miss their limit."""
        return [key for key, figure in self.figures.items() if not figure.kept(self.medians[key])]


def run_bench(name: str, options: BenchOptions, *, as_json: bool) -> bool:
    """Measure and print. Returns False if a figure misses its limit, unless the size is "smoke"."""
    bench, started = find_bench(name), perf_counter()
    measure: Measure = resolve(bench.measure)
    runs = [measure(options) for _ in range(bench.num_runs(options))]
    result = Result(
        bench.figures,
        {key: median(run[key] for run in runs) for key in bench.figures},
        {key: (min(run[key] for run in runs), max(run[key] for run in runs)) for key in bench.figures},
        perf_counter() - started,
    )
    print(json.dumps(_report(name, result), allow_nan=False) if as_json else _lines(result))
    return options.size == "smoke" or not result.missed


def _report(name: str, result: Result) -> dict[str, Any]:
    """The result as a JSON object; a figure that could not be measured is null."""

    def number(value: float) -> float | None:
        return float(f"{value:.6g}") if isfinite(value) else None

    return {
        "bench": name,
        "figures": {key: number(value) for key, value in result.medians.items()},
        "spread": {key: [number(end) for end in ends] for key, ends in result.spread.items()},
        "limits": {key: figure.limit for key, figure in result.figures.items() if figure.limit is not None},
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "seconds": round(result.seconds, 1),
    }


def _lines(result: Result) -> str:
    lines = []
    for key, figure in result.figures.items():
        low, high = result.spread[key]
        verdict = "MISSED" if key in result.missed else "kept"
        limit = "" if figure.limit is None else f"  limit {figure.limit:g}, {verdict}"
        lines.append(f"{key:>26} {result.medians[key]:10.4g}  [{low:.4g} .. {high:.4g}]{limit}")
    return "\n".join(lines)
