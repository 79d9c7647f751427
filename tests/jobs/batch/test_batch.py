import json
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from time import sleep

import pytest
from hypothesis import given, settings, strategies as st

from longtake.jobs.batch.busy_time import BusyTime, covered
from longtake.jobs.batch.ledger import Totals
from longtake.jobs.batch.progress import eta_s
from longtake.jobs.batch.run import stopping_cleanly
from longtake.jobs.batch.scheduler import RETRIES, START_RETRIES
from longtake.jobs.progress import Progress
from longtake.pipeline.errors import CapacityError, JournalError, MediaError, SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import sole_writer
from tests import forked
from tests.jobs.batch.sessions import STORYBOARD, World, run, states

ROOT = Path(__file__).parents[3]


def batch_of(folder, *entries):
    """A manifest of as many takes as there are entries; each is an id, or a take without its storyboard."""
    folder = Path(folder)
    (folder / "film.yaml").write_text(STORYBOARD)
    takes = [{"id": entry} if isinstance(entry, str) else entry for entry in entries]
    path = folder / "nightly.jsonl"
    path.write_text("\n".join(json.dumps({"storyboard": "film.yaml", **take}) for take in takes))
    return path


def ids(number):
    return [f"take-{index:03d}" for index in range(number)]


def test_every_take_is_rendered_once_by_several_gangs_at_once(tmp_path):
    manifest, out = batch_of(tmp_path, *ids(20)), tmp_path / "out"
    together = Barrier(3, timeout=10)
    world = World(on_chunk=lambda take, chunk: together.wait() if take.id <= "take-002" and not chunk else None)
    report = run(manifest, out, world, gangs=3)
    assert set(states(report).values()) == {"done"}
    assert world.rendered == Counter(ids(20))
    assert world.most_at_once == 3
    assert world.open_sessions == 0, "every gang has closed its session"
    assert all((out / name / "film.mp4").exists() for name in ids(20))


def test_never_more_at_once_than_max_parallel(tmp_path):
    world = World(on_chunk=lambda *_: sleep(0.001))
    report = run(batch_of(tmp_path, *ids(8)), tmp_path / "out", world, gangs=4, max_parallel=2)
    assert world.most_at_once <= 2
    assert report.run.num_gangs == 2


def test_a_second_run_opens_nothing_and_does_nothing_twice(tmp_path):
    manifest, out = batch_of(tmp_path, *ids(5)), tmp_path / "out"
    run(manifest, out, World())
    again = World()
    report = run(manifest, out, again)
    assert again.opened == 0
    assert not again.rendered
    assert report.figures()["done"] == 5
    assert report.run.finished == 0


def test_an_edited_take_and_a_lost_film_are_rendered_again_and_no_other(tmp_path):
    manifest, out = batch_of(tmp_path, *ids(4)), tmp_path / "out"
    run(manifest, out, World())
    (out / "take-001" / "film.mp4").unlink()
    batch_of(tmp_path, *ids(2), {"id": "take-002", "overrides": ["seed=5"]}, {"id": "take-003", "priority": 9}, "new")
    world = World()
    run(manifest, out, world)
    assert world.rendered == Counter(["take-001", "take-002", "new"])


def test_failures_are_retried_then_quarantined_while_the_others_continue(tmp_path):
    manifest, out = batch_of(tmp_path, "good", "shaky", "broken", "impossible"), tmp_path / "out"
    world = World(
        raises={
            "shaky": [OSError("disk full"), MediaError("no codec")],
            "broken": [OSError("disk full")] * 9,
            "impossible": [SpecError("video.width is 65; use 64")] * 9,
        }
    )
    report = run(manifest, out, world)
    assert states(report) == {"good": "done", "shaky": "done", "broken": "quarantined", "impossible": "quarantined"}
    records = {record.id: record for record in report.records}
    assert Counter(world.started) == {"good": 1, "shaky": 3, "broken": 3, "impossible": 1}
    assert records["broken"].cause == "OSError: disk full"
    assert records["impossible"].cause == "video.width is 65; use 64"
    assert records["shaky"].cause == ""
    assert report.figures()["failed_attempts"] == 2 + 3 + 1


def test_a_quarantined_take_is_skipped_until_requested_or_edited(tmp_path):
    manifest, out = batch_of(tmp_path, "a", "b"), tmp_path / "out"
    run(manifest, out, World(raises={"a": [SpecError("no")], "b": [OSError("no")] * 3}))
    untouched = World()
    assert states(run(manifest, out, untouched)) == {"a": "quarantined", "b": "quarantined"}
    assert untouched.opened == 0
    batch_of(tmp_path, {"id": "a", "overrides": ["seed=1"]}, "b")
    assert states(run(manifest, out, World())) == {"a": "done", "b": "quarantined"}
    still_broken = World(raises={"b": [OSError("no")] * 2})
    assert states(run(manifest, out, still_broken, retry_quarantined=True)) == {"a": "done", "b": "done"}
    assert still_broken.started == ["b"] * 3, "it has all its retries again"


def test_retries_back_off_and_do_not_hold_the_gang_up(tmp_path):
    world = World(raises={"shaky": [OSError("busy")]})
    retries = replace(RETRIES, retries=1, back_off_s=1.0)
    run(batch_of(tmp_path, "shaky", "b", "c"), tmp_path / "out", world, retries=retries)
    assert world.started == ["shaky", "b", "c", "shaky"]
    assert [RETRIES.wait_s(failures) for failures in (0, 1, 2, 3, 9)] == [2, 2, 4, 8, 60]


def test_actors_that_never_start_are_not_counted_against_the_takes(tmp_path):
    manifest, out = (
        batch_of(tmp_path, "small", *({"id": f"large-{n}", "ranks": 64} for n in range(9))),
        tmp_path / "out",
    )
    asked = []

    def refuses(take):
        asked.append(take.id)
        return CapacityError("no room for 64 ranks") if take.ranks == 64 else None

    report = run(manifest, out, World(refuses=refuses))
    assert states(report) == {"small": "done", **{f"large-{n}": "failed" for n in range(9)}}
    assert len(asked) == 1 + START_RETRIES.retries + 1, "the cluster is not asked again for every take"
    assert {(record.attempts, record.cause) for record in report.records} == {(1, ""), (0, "no room for 64 ranks")}
    assert set(states(run(manifest, out, World())).values()) == {"done"}, "the next run tries them again"


def test_projects_are_served_round_robin_and_priorities_come_first(tmp_path):
    entries = [{"id": f"a{n}", "project": "a"} for n in range(4)] + [{"id": "b0", "project": "b"}]
    world = World()
    run(batch_of(tmp_path, *entries, {"id": "now", "project": "b", "priority": 1}), tmp_path / "out", world)
    assert world.started == ["now", "a0", "b0", "a1", "a2", "a3"]


def test_a_stop_ends_takes_at_a_chunk_and_the_next_run_resumes(tmp_path):
    manifest, out, stop = batch_of(tmp_path, *ids(6)), tmp_path / "out", Event()
    chunks = Counter()

    def on_chunk(take, _):
        chunks[take.id] += 1
        if take.id == "take-002":
            stop.set()

    report = run(manifest, out, World(on_chunk=on_chunk), stop=stop)
    assert report.run.stopped
    assert Counter(states(report).values()) == {"done": 2, "pending": 4}
    assert chunks["take-002"] == 1
    assert json.loads((out / "batch" / "report.json").read_text())["figures"]["pending"] == 4
    world = World()
    report = run(manifest, out, world)
    assert not report.run.stopped
    assert world.rendered == Counter(ids(6)[2:])


def test_a_stop_that_comes_too_late_stops_nothing(tmp_path):
    stop = Event()
    world = World(refuses=lambda _: stop.set(), chunks=0)
    report = run(batch_of(tmp_path, "a"), tmp_path / "out", world, stop=stop)
    assert states(report) == {"a": "done"}
    assert not report.run.stopped


def test_the_first_signal_stops_cleanly_and_the_second_immediately():
    script = """if True:
        import os, signal, sys, time
        from threading import Event
        from longtake.jobs.feedback import Feedback
        from longtake.jobs.progress import Progress
        from longtake.jobs.batch.run import stopping_cleanly
        stop = Event()
        with stopping_cleanly(stop, Progress(Feedback("none"), "")):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(5)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    """
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert "Stopping" in ended.stdout


def test_signals_are_as_before_once_a_batch_is_over():

    before = signal.getsignal(signal.SIGINT)
    with stopping_cleanly(Event(), Progress.silent()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


class DriverKilled(BaseException):
    """The process is gone: nothing more is written."""


@settings(max_examples=40)
@given(
    dies_at=st.integers(0, 16),
    after=st.booleans(),
    gangs=st.integers(1, 3),
    failures=st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
def test_a_driver_that_dies_at_any_ledger_write_loses_nothing_and_does_nothing_twice(dies_at, after, gangs, failures):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        manifest, out = batch_of(folder, *ids(4)), Path(folder) / "out"
        writes, dead, put = iter(range(10**6)), Event(), Store.put

        def deadly_put(store, name, data, **_):
            if not name.startswith("takes/"):
                return put(store, name, data, durable=False)
            if dead.is_set() or next(writes) == dies_at:
                if after and not dead.is_set():
                    put(store, name, data, durable=False)
                dead.set()
                raise DriverKilled
            return put(store, name, data, durable=False)

        patch.setattr(Store, "put", deadly_put)
        errors = {name: [OSError("no")] * number for name, number in zip(ids(4), failures, strict=True)}
        first = World(raises=errors)
        try:
            run(manifest, out, first, gangs=gangs)
        except DriverKilled:
            dead.clear()
            dies_at = -1
        kept = {}
        for path in (out / "batch" / "takes").glob("*.json"):
            record = json.loads(path.read_text())
            kept[record["id"]] = record["state"]
        second = World(raises={name: list(left) for name, left in first.raises.items()})
        report = run(manifest, out, second, gangs=gangs)
        assert set(states(report)) == set(ids(4)), "nothing is lost"
        assert set(states(report).values()) <= {"done", "quarantined"}, "every take has ended"
        ended = {name for name, state in kept.items() if state in ("done", "quarantined")}
        assert not ended & set(second.started), "nothing that had ended is done again"
        for name, number in zip(ids(4), failures, strict=True):
            assert first.started.count(name) + second.started.count(name) <= min(number, 2) + 1 + 1, "one attempt more"
            if number <= 2:
                assert states(report)[name] == "done"


@settings(max_examples=25)
@given(
    failures=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    gangs=st.integers(1, 4),
    retries=st.integers(0, 3),
)
def test_every_take_ends_exactly_once(failures, gangs, retries):
    with tempfile.TemporaryDirectory() as folder:
        names = ids(len(failures))
        errors = {name: [OSError("no")] * number for name, number in zip(names, failures, strict=True)}
        world = World(raises=errors)
        report = run(
            batch_of(folder, *names),
            f"{folder}/out",
            world,
            gangs=gangs,
            retries=replace(RETRIES, retries=retries, back_off_s=0),
        )
        for name, number in zip(names, failures, strict=True):
            assert states(report)[name] == ("done" if number <= retries else "quarantined")
            assert world.rendered[name] == (number <= retries)
            assert world.started.count(name) == min(number, retries) + 1


def test_a_ledger_that_cannot_be_written_ends_the_batch_with_its_cause(tmp_path, monkeypatch):
    manifest, put = batch_of(tmp_path, *ids(4)), Store.put

    def full(store, name, data, **options):
        if name == "takes/take-002.json":
            raise OSError(28, "No space left on device")
        return put(store, name, data, **options)

    monkeypatch.setattr(Store, "put", full)
    world = World()
    with pytest.raises(JournalError, match=r"take-002\.json cannot be written .*No space left"):
        run(manifest, tmp_path / "out", world, gangs=2)
    assert world.open_sessions == 0


def test_a_torn_record_counts_as_a_take_that_was_never_tried(tmp_path):
    manifest, out = batch_of(tmp_path, *ids(2)), tmp_path / "out"
    run(manifest, out, World())
    (out / "batch" / "takes" / "take-001.json").write_text('{"id": "take-0')
    world = World()
    run(manifest, out, world)
    assert world.rendered == Counter(["take-001"])


RECORD = {
    *("id", "wish", "state", "attempts", "cause", "seconds", "overhead_s", "spent_s", "film_s", "output"),
    *("film", "project", "tags"),
}


def test_a_record_keeps_its_keys_so_that_batches_of_earlier_versions_are_continued(tmp_path):
    manifest, out = batch_of(tmp_path, "a"), tmp_path / "out"
    report = run(manifest, out, World())
    record = json.loads((out / "batch" / "takes" / "a.json").read_text())
    assert record.keys() == RECORD
    assert record["wish"] == report.records[0].fingerprint
    assert json.loads((out / "batch" / "report.json").read_text())["takes"][0].keys() == RECORD


def test_one_batch_at_a_time_in_one_place(tmp_path):
    manifest, out = batch_of(tmp_path, "a"), tmp_path / "out"
    with sole_writer(Store(str(out / "batch"))), pytest.raises(JournalError, match="wait for it"):
        run(manifest, out, World())


def test_a_batch_may_live_on_any_store(tmp_path):
    manifest, world = batch_of(tmp_path, *ids(3)), World()
    run(manifest, "memory://nightly", world)
    run(manifest, "memory://nightly", world)
    assert world.rendered == Counter(ids(3))
    assert Store("memory://nightly").exists("batch/report.html")


def test_the_report_holds_what_was_done_its_cost_and_why_the_rest_failed(tmp_path):
    entries = [{"id": "good", "project": "acme", "tags": ["draft"]}, {"id": "bad", "project": "<b>"}]
    world = World(raises={"bad": [SpecError("the <cause> & fix")]}, on_chunk=lambda *_: sleep(0.005))
    report = run(batch_of(tmp_path, *entries), tmp_path / "out", world, price_per_hour=3600.0)
    figures = report.figures()
    assert (figures["done"], figures["quarantined"], figures["film_s"]) == (1, 1, 2.0)
    assert figures["cost"] == pytest.approx(figures["spent_s"])
    assert figures["cost_per_film_minute"] == pytest.approx(30 * figures["spent_s"])
    assert figures["median_overhead_s"] == pytest.approx(figures["median_seconds_per_take"])
    assert report.records[1].spent_s >= 0.01, "an attempt that fails costs too"
    page = (tmp_path / "out" / "batch" / "report.html").read_text()
    assert "the &lt;cause&gt; &amp; fix" in page
    assert "<b>" not in page.split("<h2>Projects")[1]
    assert "1 done, 1 quarantined" in page
    assert "://" not in page, "it needs nothing else"
    assert "default-src 'none'" in page, "and may load nothing else"
    whole = json.loads((tmp_path / "out" / "batch" / "report.json").read_text())
    assert whole["figures"] == figures
    assert whole["takes"][0]["tags"] == ["draft"]


def test_time_left_goes_by_seconds_of_film_not_by_takes():
    before = Totals({"pending": 3}, film_s=0, left_film_s=100, spent_s=0)
    now = Totals({"done": 1, "running": 1, "pending": 1}, film_s=20, left_film_s=80, spent_s=10)
    assert eta_s(before, now, num_gangs=2) == 20
    assert eta_s(before, before, num_gangs=2) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), max_size=8))
def test_work_that_overlaps_counts_once(spans):
    assert covered(map(tuple, spans)) == len({second for start, stop in spans for second in range(start, stop)})


def test_busy_time_is_summed_from_chunk_events():
    work = BusyTime()
    work.event("film.start", time="2026-01-01T00:00:00.000+00:00")
    work.event("denoise.chunk", time="2026-01-01T00:00:03.000+00:00", seconds=2.0)
    work.event("decode.chunk", time="2026-01-01T00:00:04.000+00:00", seconds=1.5)
    assert work.seconds == pytest.approx(3.0)


def batch(*arguments):
    return forked.run("-m", "longtake.jobs.batch", *arguments, cwd=ROOT)


def test_a_second_run_of_the_command_imports_neither_torch_nor_ray(tmp_path):
    manifest, out = batch_of(tmp_path, *ids(200)), tmp_path / "out"
    run(manifest, out, World(chunks=0), gangs=2)
    script = f"""if True:
        import sys
        from longtake.jobs.batch.options import BatchOptions
        from longtake.jobs.batch.run import batch_command
        from longtake.jobs.progress import Progress
        from longtake.jobs.feedback import Feedback
        with Progress(Feedback("plain"), "reading the manifest") as progress:
            code = batch_command({str(manifest)!r}, {str(out)!r}, BatchOptions(), progress)
        assert not {{"torch", "ray"}} & sys.modules.keys()
        sys.exit(code)
    """
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "200 done" in ended.stdout


def test_mistakes_and_failures_have_their_exit_codes(tmp_path):
    manifest, out = batch_of(tmp_path, "a", "b"), tmp_path / "out"
    run(manifest, out, World(raises={"a": [SpecError("no")]}))
    assert batch(manifest, "-o", out).returncode == 1
    batch_of(tmp_path, "a", "a")
    ended = batch(manifest, "-o", out)
    assert ended.returncode == 2
    assert "id is 'a', as in line 1, take 1 (a)" in ended.stderr
    batch_of(tmp_path, "c")
    ended = batch(manifest, "-o", "memory://nowhere")
    assert ended.returncode == 2
    assert "memory belongs to one process" in ended.stderr
