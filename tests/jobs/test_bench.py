import json

import pytest

import longtake.jobs.bench
from longtake.jobs.bench import Bench, BenchOptions, Figure, run_bench


@pytest.fixture
def fake_bench(monkeypatch):
    values = iter([1.0, 9.0, 2.0])
    fake = Bench({"growth": Figure("grows", at_most=1.5)}, lambda _: {"growth": next(values)})
    monkeypatch.setattr(longtake.jobs.bench, "load_bench", lambda _: fake)


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
    assert run_bench("fake", BenchOptions(quick=True), as_json=False)


def test_limits_hold_in_both_directions_and_nan_keeps_none():
    assert Figure("", at_least=0.5).kept(0.5)
    assert not Figure("", at_least=0.5).kept(0.4)
    assert not Figure("", at_most=1).kept(float("nan"))


def test_endless_measures_every_figure_it_promises(monkeypatch):
    from longtake.jobs.bench import endless

    monkeypatch.setattr(endless, "WARM", 2)
    monkeypatch.setattr(endless, "REFERENCE_STOP", 10)
    monkeypatch.setattr(endless, "LAST", 8)
    monkeypatch.setattr(endless, "QUICK_CHUNKS", 24)
    assert endless.measure(BenchOptions(quick=True)).keys() == endless.BENCH.figures.keys()
