"""Metrics without a cluster; tests/jobs/test_submit.py checks what Prometheus sees of them."""

import pytest

from longtake.actors.metrics import EXPORTED, PACE_CHUNKS, Meters, NoMeters, Pace, meters


def test_pace_is_film_per_second_over_the_latest_chunks():
    pace = Pace(chunk_s=2.0)
    assert pace.landed(100.0) == 0.0
    assert pace.landed(104.0) == pytest.approx(0.5)
    for second in range(1, 2 * PACE_CHUNKS):
        latest = pace.landed(104.0 + second)
    assert latest == pytest.approx(2.0)  # the slow start no longer counts


def test_two_chunks_at_one_moment_are_no_pace():
    pace = Pace(chunk_s=2.0)
    pace.landed(1.0)
    assert pace.landed(1.0) == 0.0


@pytest.mark.parametrize(("setting", "kind"), [(None, Meters), ("1", Meters), ("0", NoMeters), ("false", NoMeters)])
def test_metrics_are_kept_only_where_ray_collects_them(monkeypatch, setting, kind):
    if setting is None:
        monkeypatch.delenv("RAY_enable_metrics_collection", raising=False)
    else:
        monkeypatch.setenv("RAY_enable_metrics_collection", setting)
    assert type(meters()) is kind


@pytest.mark.parametrize("build", [Meters, NoMeters])
def test_meters_take_every_event_of_a_take(build):
    one = build()
    one.event("film.start", {"chunks": 2, "film_s": 2.0})
    for act in ("embed", "denoise", "decode", "encode", "publish"):
        one.event(f"{act}.chunk", {"chunk": 0, "scene": 0, "seconds": 0.1})
    one.event("actor.replaced", {"act": "denoise", "epoch": 1, "reason": "died"})
    one.event("road.start", {"road": "ray"})
    one.in_flight(3)
    one.event("film.done", {"url": "x"})


def test_metrics_are_few_and_no_name_holds_an_id():
    assert len(EXPORTED) == 7
    assert all(name.startswith("ray_longtake_") for name in EXPORTED)
