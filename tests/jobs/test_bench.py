import json
from math import inf, nan

import pytest

from longtake.jobs import cli
from longtake.jobs.bench import run
from longtake.jobs.bench.figures import Bench, BenchOptions, Figure
from longtake.jobs.bench.run import find_bench, list_benches, run_bench
from longtake.jobs.bench.table import BENCHES
from longtake.pipeline.errors import CapacityError


@pytest.fixture
def put_bench(monkeypatch):
    """Puts a bench with these figures and this measurement in place of all others."""

    def put(figures, measure):
        monkeypatch.setattr(run, "find_bench", lambda _: Bench(figures, "fake:measure"))
        monkeypatch.setattr(run, "resolve", lambda _: measure)

    return put


@pytest.fixture
def fake_bench(put_bench):
    values = iter([1.0, 9.0, 2.0])
    put_bench({"growth": Figure("grows", at_most=1.5)}, lambda _: {"growth": next(values)})


@pytest.mark.usefixtures("fake_bench")
def test_a_bench_prints_medians_spread_and_limits_on_the_last_line(capsys):
    assert not run_bench("fake", BenchOptions(repeat=3), as_json=True)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bench"] == "fake"
    assert report["figures"] == {"growth": 2.0}
    assert report["spread"] == {"growth": [1.0, 9.0]}
    assert report["limits"] == {"growth": 1.5}
    assert report.keys() >= {"machine", "seconds"}


@pytest.mark.usefixtures("fake_bench")
def test_a_kept_limit_is_a_success():
    assert run_bench("fake", BenchOptions(size="quick"), as_json=False)


@pytest.mark.usefixtures("fake_bench")
def test_a_missed_limit_exits_with_1_and_a_kept_one_with_0():
    with pytest.raises(SystemExit) as missed:
        cli.main(["bench", "fake", "--json"])
    assert missed.value.code == 1


def test_a_smoke_run_enforces_no_limit(put_bench, capsys):
    put_bench({"growth": Figure("grows", at_most=1.5)}, lambda _: {"growth": 9.0})
    assert not run_bench("fake", BenchOptions(size="quick"), as_json=False)
    assert run_bench("fake", BenchOptions(size="smoke"), as_json=False)
    assert "MISSED" in capsys.readouterr().out


def test_figures_that_could_not_be_measured_are_null_since_json_has_no_nan(put_bench, capsys):
    put_bench({"drift": Figure("drifts"), "ratio": Figure("rises")}, lambda _: {"drift": nan, "ratio": inf})
    run_bench("fake", BenchOptions(size="quick"), as_json=True)
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["figures"] == {"drift": None, "ratio": None}
    assert report["spread"]["drift"] == [None, None]


def test_a_bench_is_repeated_as_often_as_asked_or_else_by_its_own_number():
    bench = Bench({}, "fake:measure", repeats=1)
    assert bench.num_runs(BenchOptions()) == 1
    assert bench.num_runs(BenchOptions(repeat=5)) == 5
    assert bench.num_runs(BenchOptions(repeat=5, size="quick")) == 5
    assert Bench({}, "fake:measure").num_runs(BenchOptions()) == 3
    assert Bench({}, "fake:measure").num_runs(BenchOptions(size="quick")) == 1


def test_every_size_has_its_own_value():
    sizes = ("full", "quick", "smoke")
    assert [BenchOptions(size=size).pick(full=200, quick=24, smoke=4) for size in sizes] == [200, 24, 4]


def test_quick_and_smoke_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main(["bench", "endless", "--quick", "--smoke"])
    assert refused.value.code == 2
    assert "--quick and --smoke" in capsys.readouterr().err


def test_limits_hold_in_both_directions_and_nan_keeps_none():
    assert Figure("", at_least=0.5).kept(0.5)
    assert not Figure("", at_least=0.5).kept(0.4)
    assert not Figure("", at_most=1).kept(float("nan"))


def test_without_a_gpu_only_the_rehearsal_of_its_bench_runs(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(CapacityError, match=r"this machine has no GPU; .*--smoke"):
        run_bench("gpu", BenchOptions(size="quick"), as_json=True)


def test_the_list_explains_every_figure_of_every_bench(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    list_benches()
    listed = capsys.readouterr().out
    for name, bench in BENCHES.items():
        for key, figure in bench.figures.items():
            assert f" {name} " in listed
            assert f" {key} " in listed
            assert figure.meaning in listed


def smoke(name, capsys):
    """Run a bench once with the least work; its figures."""
    assert run_bench(name, BenchOptions(size="smoke"), as_json=True)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bench"] == name
    assert list(report["figures"]) == list(report["spread"]) == list(find_bench(name).figures)
    return report["figures"]


ON_RAY = ("batch", "chaos", "leaks", "lora", "road", "upscale")
GROUPED = {"hot-path": [pytest.mark.xdist_group("hot-path")]}  # with the tests of the same counts


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=GROUPED.get(name, [])) for name in BENCHES if name not in ON_RAY]
)
def test_every_bench_runs(name, capsys):
    smoke(name, capsys)


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ON_RAY)
def test_every_bench_on_ray_runs(name, capsys):
    smoke(name, capsys)
