import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import pytest

from longtake.pipeline.errors import SpecError
from longtake.pipeline.inspect import status as module
from longtake.pipeline.inspect.event_tail import EventTail
from longtake.pipeline.inspect.status import TakeReader, read_status
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import SceneCard, TakeCard, put_take
from longtake.pipeline.media import hls

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
FRAMES, CHUNKS = 24, 5  # of a chunk; of the film

CARD = TakeCard(
    title="Rain",
    model="tiny",
    fps="24000/1001",
    sample_rate=16000,
    frames=FRAMES * CHUNKS,
    samples=80080,
    chunk_stops=tuple(FRAMES * (chunk + 1) for chunk in range(CHUNKS)),
    scenes=(
        SceneCard(prompt="rain", cut=True, frames=(0, 48), chunks=(0, 2)),
        SceneCard(prompt="sun", cut=False, frames=(48, 120), chunks=(2, 5)),
    ),
    film="film.mp4",
    hls=True,
)

ACTS = ("embed", "denoise", "decode", "encode", "publish")


class Take:
    """A take whose events are written by the test, with a simulated clock."""

    def __init__(self, store):
        self.store, self.now_s, self.lines = store, 0.0, ""
        put_take(store, CARD)

    def event(self, name, after_s=0.0, **fields):
        self.now_s += after_s
        time = (START + timedelta(seconds=self.now_s)).isoformat(timespec="milliseconds")
        self.write(json.dumps({"time": time, "event": name, **fields}) + "\n")

    def start(self, **kept):
        self.event("road.start", road="in-process", torch="2.11", threads=1)
        self.event("film.start", chunks=CHUNKS, frames=FRAMES * CHUNKS, samples=80080, **kept)

    def chunk(self, chunk, seconds=0.5, acts=ACTS):
        for act in acts:
            self.event(f"{act}.chunk", after_s=seconds, chunk=chunk, scene=int(chunk >= 2), seconds=seconds)

    def write(self, text):
        self.lines += text
        self.store.put("events.jsonl", self.lines.encode())

    def status(self, after_s=0.0):
        return TakeReader(self.store).read(START + timedelta(seconds=self.now_s + after_s))


@pytest.fixture(params=["local", "remote"])
def take(request, tmp_path):
    return Take(Store(str(tmp_path) if request.param == "local" else f"memory://{uuid4()}"))


@pytest.fixture
def no_rate_limit(monkeypatch):
    """Every reading of the clock is a hundred times the last, so that remote logs are fetched without waiting."""
    monkeypatch.setattr("longtake.pipeline.inspect.event_tail.monotonic", (100.0**call for call in count()).__next__)


def done(status):
    return {act.act: act.done for act in status.acts}


def test_a_folder_without_a_take_is_refused_with_the_fix(tmp_path):
    with pytest.raises(SpecError, match=f"{tmp_path} holds no take; render one with longtake render"):
        read_status(Store(str(tmp_path)))


def test_a_damaged_card_is_named(tmp_path):
    store = Store(str(tmp_path))
    store.put("journal/take.json", b'{"title":')
    with pytest.raises(SpecError, match=r"take\.json is damaged"):
        read_status(store)


def test_a_status_is_read_without_torch():
    script = "import sys, longtake.pipeline.inspect.status, longtake.jobs.watch.serve; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.strip() == b"False"
    assert module.MASTER_NAME == hls.MASTER_NAME


def test_a_take_without_events_is_starting(take):
    status = take.status()
    assert (status.state, status.published, status.realtime, status.eta_s, status.plays) == (
        "rendering", 0, None, None, None,
    )  # fmt: skip
    assert [(scene.prompt, scene.published) for scene in status.scenes] == [("rain", 0), ("sun", 0)]


def test_a_render_reports_stages_scenes_speed_and_remaining_time(take):
    take.start()
    for chunk in range(3):
        take.chunk(chunk, seconds=0.25 * (chunk + 1))
    take.chunk(3, acts=("embed", "denoise"))
    status = take.status()
    assert status.state == "rendering"
    assert done(status) == {"embed": 4, "denoise": 4, "decode": 3, "encode": 3, "publish": 3}
    assert (status.published, status.chunks) == (3, CHUNKS)
    assert status.published_s == pytest.approx(3 * FRAMES * 1001 / 24000)
    decode = status.acts[2]
    assert (decode.median_s, decode.last_s, decode.chunk_s) == (0.5, 0.75, ((0, 0.25), (1, 0.5), (2, 0.75)))
    assert [scene.published for scene in status.scenes] == [2, 1]
    assert status.scenes[1].start_s == pytest.approx(2.002)
    wall_s = 5 * (0.25 + 0.5 + 0.75)
    assert status.realtime == pytest.approx(3.003 / wall_s)
    assert status.eta_s == pytest.approx(2.002 / status.realtime - 1.0)  # one second has passed since the last publish
    assert take.status(after_s=0.5).eta_s == pytest.approx(status.eta_s - 0.5)


def test_a_complete_film_is_done_and_plays_as_a_file(take):
    take.start()
    for chunk in range(CHUNKS):
        take.chunk(chunk)
    assert take.status().plays is None, "nothing was put under live/"
    take.store.put("live/master.m3u8", b"#EXTM3U")
    assert take.status().plays == "live/master.m3u8"
    take.event("film.done", url="film.mp4", frames=FRAMES * CHUNKS)
    status = take.status(after_s=1e6)
    assert (status.state, status.published, status.eta_s, status.plays) == ("done", CHUNKS, None, "film.mp4")
    assert status.realtime == pytest.approx(5.005 / 12.5)


@pytest.mark.parametrize(
    ("error", "message", "state", "shown"),
    [
        ("CapacityError", "too large", "failed", "CapacityError: too large"),
        ("KeyboardInterrupt", "", "interrupted", None),
    ],
)
def test_a_render_that_ended_early_states_the_reason_and_the_fix(take, error, message, state, shown):
    take.start()
    take.chunk(0)
    take.event("road.failed", error=error, message=message)
    status = take.status(after_s=1e6)
    assert (status.state, status.error) == (state, shown)
    assert "1 of 5 chunks published; run the same command again" in status.summary


def test_no_event_for_many_chunk_times_is_a_stall(take):
    take.start()
    assert take.status(after_s=200).state == "rendering", "the first chunk may have to wait for its weights"
    assert take.status(after_s=400).state == "stalled"
    take.chunk(0, seconds=20)
    assert take.status(after_s=95).state == "rendering", "less than five of its chunks"
    status = take.status(after_s=120)
    assert status.state == "stalled"
    assert status.eta_s is None
    assert "No event for 120 s (the slowest stage takes 20.0 s per chunk)" in status.summary


def test_a_resumed_render_counts_kept_chunks_and_times_only_new_ones(take):
    take.start()
    for chunk in range(2):
        take.chunk(chunk, seconds=1)
    take.event("road.failed", after_s=3600, error="KeyboardInterrupt", message="")
    take.start(kept_latents=3, kept_segments=2)
    status = take.status()
    assert (status.state, status.runs) == ("rendering", 2)
    assert done(status) == {"embed": 3, "denoise": 3, "decode": 2, "encode": 2, "publish": 2}
    assert [act.kept for act in status.acts] == [3, 3, 2, 2, 2]
    for chunk in range(2):  # fed to the publisher again, far faster than they were rendered
        take.chunk(chunk, seconds=0.001, acts=("publish",))
    status = take.status()
    assert (status.published, status.realtime, status.acts[4].median_s) == (2, None, None)
    take.chunk(2, seconds=0.5, acts=("decode", "encode", "publish"))
    assert take.status().realtime == pytest.approx(1.001 / 1.5)


def test_an_edit_between_two_cuts_counts_only_its_chunks(take):
    take.start()
    for chunk in range(CHUNKS):
        take.chunk(chunk)
    take.start(kept_latents=4, kept_segments=4, encoded=[[0, 1], [2, CHUNKS]])
    status = take.status()
    assert done(status) == {"embed": 4, "denoise": 4, "decode": 4, "encode": 4, "publish": 1}
    take.chunk(0, seconds=0.001, acts=("publish",))
    take.chunk(1, seconds=0.5, acts=("embed", "denoise", "decode", "encode"))
    assert done(take.status()) == {"embed": 5, "denoise": 5, "decode": 5, "encode": 5, "publish": 1}
    for chunk in range(1, CHUNKS):
        take.chunk(chunk, seconds=0, acts=("publish",))
    assert (take.status().published, take.status().realtime, take.status().eta_s) == (5, pytest.approx(0.5005), 0)


def test_an_edit_lowers_the_published_count(take):
    take.start()
    for chunk in range(4):
        take.chunk(chunk)
    take.start(kept_latents=2, kept_segments=2)
    assert take.status().published == 2


def test_a_refused_second_writer_does_not_end_the_first(take):
    take.start()
    take.chunk(0)
    take.event("road.start", road="in-process")
    take.event("road.failed", error="JournalError", message="owned by another process")
    take.chunk(1)
    status = take.status()
    assert (status.state, status.error, status.published) == ("rendering", None, 2)


@pytest.mark.usefixtures("no_rate_limit")
def test_an_incomplete_line_is_read_by_a_later_poll(take):
    take.start()
    whole = take.lines
    take.chunk(0, acts=("embed",))
    line = take.lines.removeprefix(whole)
    take.lines = whole
    take.write(line[:30])
    tail = EventTail(take.store)
    assert [event["event"] for event in tail.poll()[1]] == ["road.start", "film.start"]
    assert not list(tail.poll()[1])
    take.write(line[30:])
    assert [event["event"] for event in tail.poll()[1]] == ["embed.chunk"]


def test_a_line_that_its_writer_never_finished_is_skipped(take):
    take.start()
    take.write('{"time": "2026\n[]\n')
    take.chunk(0)
    assert take.status().published == 1


@pytest.mark.usefixtures("no_rate_limit")
def test_a_replaced_log_is_read_from_its_start(take):
    take.start()
    take.chunk(0)
    reader = TakeReader(take.store)
    assert reader.read().published == 1
    take.lines, take.now_s = "", 60.0
    take.start()
    assert reader.read().published == 0
    assert [event["event"] for event in reader.events] == ["road.start", "film.start"]
    assert reader.num_events == 2


def test_a_long_local_log_is_read_once(tmp_path, monkeypatch):
    take = Take(Store(str(tmp_path)))
    take.start()
    take.chunk(0)
    reader = TakeReader(take.store)
    reader.read()
    parsed = []
    monkeypatch.setattr("longtake.pipeline.inspect.event_tail._event", parsed.append)
    reader.read()
    take.chunk(1, acts=("embed",))
    reader.read()
    assert len(parsed) == 1


def test_a_remote_log_is_fetched_at_a_bounded_rate(monkeypatch):
    take = Take(Store(f"memory://{uuid4()}"))
    take.start()
    reader = TakeReader(take.store)
    reader.read()
    monkeypatch.setattr(take.store, "get", None)
    reader.read()
