"""Several ranks compute what one rank computes: the largest difference over degrees, heads, sizes and store states.

Every case renders one short film (`parity_cases.py`) chunk by chunk with a store that several ranks share, and again
with the store of one rank: noisy passes in all branches, then clean passes over given latents, so that every chunk
starts from the same context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from itertools import chain, product

import torch
from torch import Tensor

from longtake.jobs.bench.diffusers_row import their_differences
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.film_parity import FilmCase, diverge_all
from longtake.jobs.bench.parity_cases import Case, film, relative
from longtake.jobs.bench.ranks import run_ranks
from longtake.pipeline.parallel.context_parallel import SHARDED, ContextParallel, context_parallel
from longtake.pipeline.parallel.degrees import Degrees


@dataclass(frozen=True)
class Outcome:
    """One case on one rank: a digest of all velocities, and on rank 0 their difference from those of one rank."""

    digest: str
    difference: float = 0.0


@cache
def alone(case: Case, seed: int) -> list[dict[str, Tensor]]:
    """The velocities of a film that one rank renders alone."""
    return list(film(case, seed).velocities())


def compare(case: Case, seed: int, parallel: ContextParallel) -> Outcome:
    """On one rank: render the film that all ranks share, over all chunks, branches and streams."""
    shared = list(film(case, seed).velocities(parallel))
    digest = sha256()
    for velocity in chain.from_iterable(velocities.values() for velocities in shared):
        digest.update(velocity.numpy().tobytes())
    if parallel.place != (0, 0, 0):
        return Outcome(digest.hexdigest())
    whole = alone(replace(case, degrees=Degrees(cfg=case.degrees.cfg), sharded=SHARDED), seed)
    pairs = zip(shared, whole, strict=True)
    return Outcome(digest.hexdigest(), max(relative(got[key], expected[key]) for got, expected in pairs for key in got))


def compare_all(cases: Sequence[Case], seed: int, rank: int) -> dict[Case, Outcome]:
    """On rank `rank`: every case that has such a rank, in order."""
    return {
        case: compare(case, seed, context_parallel(case.degrees, range(case.degrees.ranks), sharded=case.sharded))
        for case in cases
        if rank < case.degrees.ranks
    }


def matrix(num_ranks: int, heads: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Case]:
    """All degrees of up to `num_ranks` ranks, with these heads and sizes, in both precisions."""
    gangs = [Degrees(ulysses=n) for n in range(2, num_ranks + 1)] + [Degrees(ring=n) for n in range(2, num_ranks + 1)]
    gangs += [Degrees(cfg=2), Degrees(cfg=2, ulysses=2), Degrees(cfg=2, ring=2), Degrees(ulysses=2, ring=2)]
    gangs = [degrees for degrees in gangs if degrees.ranks <= num_ranks]
    cases = [Case(*case) for case in product(gangs, heads, sizes, (torch.float32, torch.float64))]
    # diffusers computes norms and modulation of Wan in float32, for weights of any precision.
    cases += [Case(*case, client="wan") for case in product(gangs, heads, sizes, (torch.float32,))]
    masked = [replace(case, masked=True) for case in cases if case.heads == heads[-1] and case.size == sizes[0]]
    return cases + masked


def measure(options: BenchOptions) -> Mapping[str, float]:
    """The whole matrix in one gang of gloo ranks with one thread each; then diffusers' Ulysses on the same shapes."""
    num_ranks = options.ranks or options.pick(full=4, quick=4, smoke=2)
    heads = options.pick(full=(3, 4, 5, 12), quick=(3, 4), smoke=(3,))
    sizes = options.pick(full=[(3, 3), (2, 4), (1, 1)], quick=[(3, 3), (2, 4)], smoke=[(3, 3)])
    cases = matrix(num_ranks, heads, sizes)[:: options.pick(full=1, quick=1, smoke=2)]
    results = run_ranks(partial(compare_all, cases, options.seed), num_ranks)
    ours = {case: outcome.difference for case, outcome in results[0].items()}
    theirs = their_differences(list(product(heads, sizes)), range(2, num_ranks + 1), options.seed)
    for (ranks, (num_heads, size)), their in theirs.items():
        case = Case(Degrees(ulysses=ranks), num_heads, size, torch.float32, client="wan")
        if case not in ours:  # a smoke run has every second case, with all degrees, clients, precisions and masks
            continue
        verdict = f"differs by {their:.1e}" if isinstance(their, float) else f"refuses ({their})"
        print(f"{case}: ours differs by {ours[case]:.1e}, diffusers {verdict}")
    films = _films(options)
    ran = [their for their in theirs.values() if isinstance(their, float)]
    return {
        "cases": len(cases),
        "max_rel_float32": max(value for case, value in ours.items() if case.dtype == torch.float32),
        "max_rel_float64": max(value for case, value in ours.items() if case.dtype == torch.float64),
        "ranks_that_differ": sum(
            rank[case].digest != outcome.digest
            for case, outcome in results[0].items()
            for rank in results
            if case in rank
        ),
        **films,
        "diffusers_max_rel_float32": max(ran, default=float("nan")),
        "diffusers_refused": len(theirs) - len(ran),
    }


def _films(options: BenchOptions) -> dict[str, float]:
    """Films of two and of three ranks, compared with the film of one rank chunk by chunk."""
    gangs = [Degrees(ulysses=2), Degrees(ring=3)]
    chunks = options.pick(full=30, quick=8, smoke=2)
    models = options.pick(full=["tiny", "sounding-shapes"], quick=["tiny"], smoke=["tiny"])
    film_of = partial(FilmCase, chunks=chunks, seed=options.seed, steps=options.pick(full=4, quick=4, smoke=1))
    single = [film_of(gang, model, torch.float32) for gang in gangs for model in models]
    double = [film_of(gang, "tiny", torch.float64) for gang in gangs]
    found = run_ranks(partial(diverge_all, single + double), 3)[0]
    for case in single:
        over_time = ", ".join(f"{value:.0e}" for value in found[case].free)
        print(f"{case}: free-running, it differs by chunk by {over_time}")
    return {
        "film_chunk_rel_float32": max(max(found[case].from_one_rank) for case in single),
        "film_free_rel_float64": max(max(found[case].free) for case in double),
        "film_free_rel_float32": max(found[case].free[-1] for case in single),
    }
