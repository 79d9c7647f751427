import json
from threading import Event, Thread
from time import sleep

import pytest

from longtake.pipeline.errors import Cancelled, SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import put_take, read_take
from longtake.pipeline.journal.writer import sole_writer
from tests.jobs.batch.sessions import World, run, states
from tests.jobs.batch.test_batch import batch_of, ids
from tests.tiny_take import Recorder, render


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """The card of a take."""
    store = Store(str(tmp_path_factory.mktemp("take")))
    render(store, Recorder())
    return read_take(store)


def test_a_batch_root_has_a_status_and_is_cancelled_as_a_whole(command, tmp_path, card):
    manifest, out, began = batch_of(tmp_path, *ids(5)), tmp_path / "out", Event()
    put_take(Store(str(out / "take-001")), card)

    def on_chunk(take, _):
        if take.id != "take-000":
            began.set()
            sleep(0.01)

    reports = []
    world = World(on_chunk=on_chunk, chunks=100_000)
    batch = Thread(target=lambda: reports.append(run(manifest, out, world, gangs=2)))
    batch.start()
    assert began.wait(10)
    while "take-002" not in world.started:
        sleep(0.01)
    status = json.loads(command("status", out, "--json", check=True).stdout)
    shown = command("status", out, check=True).stdout
    assert status["state"] == "rendering"
    assert status["takes"] == 5
    assert status["states"] == {"done": 1, "running": 2, "pending": 2}
    assert {name: take and take["title"] for name, take in status["running"].items()} == {
        "take-001": card.title,
        "take-002": None,
    }
    assert "rendering: 1 done, 2 running, 2 pending of 5 takes" in shown
    assert "take-002" in shown

    with sole_writer(Store(str(out / "take-003"))):  # a render by hand
        waited = command("cancel", out, "--wait", 0)
    assert waited.returncode == 1
    assert "check longtake status" in waited.stderr
    batch.join(10)
    assert set(states(reports[0]).values()) == {"done", "pending"}
    assert reports[0].run.stopped
    assert "No batch and no render owns" in command("cancel", out, check=True).stdout
    assert "stopped: 1 done, 4 pending of 5 takes" in command("status", out, check=True).stdout


def test_a_cancelled_take_of_a_batch_is_not_tried_again_by_the_same_run(tmp_path):
    world = World(raises={"a": [Cancelled("stopped by longtake cancel")]})
    report = run(batch_of(tmp_path, "a", "b"), tmp_path / "out", world)
    assert states(report) == {"a": "pending", "b": "done"}
    assert world.started == ["a", "b"]


def test_a_render_whose_actors_are_starting_has_a_status_and_is_cancelled(command, tmp_path):
    assert command("cancel", tmp_path).returncode == 2
    with sole_writer(Store(str(tmp_path))):
        assert "starts to render into" in command("status", tmp_path, check=True).stdout
        assert command("cancel", tmp_path, "--wait", 0).returncode == 1
        assert (tmp_path / "journal" / "cancel.json").exists()


def test_a_batch_that_is_refused_has_written_nothing(tmp_path):
    class Refusing(World):
        def sessions(self, todo, options):
            raise SpecError("there is no GPU")

    with pytest.raises(SpecError, match="no GPU"):
        run(batch_of(tmp_path, "a"), tmp_path / "out", Refusing())
    assert not (tmp_path / "out").exists()
