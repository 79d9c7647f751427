import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from fractions import Fraction
from http.client import HTTPConnection
from pathlib import Path
from uuid import uuid4

import pytest

from longtake.jobs.watch.server import HEADERS, PAGE, WatchServer
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import SceneCard, TakeCard, put_take
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.stages.publish import PublishOptions, PublishStage
from longtake.pipeline.testing.media import fake_frames, fake_sound, fake_spans
from tests import forked
from tests.browser import debugging, needs_chromium

ROOT = Path(__file__).parents[2]
FPS, SAMPLE_RATE = Fraction(24), 16000
FRAMES, CHUNKS = 12, 6
SPANS = fake_spans(MediaClock(FPS, SAMPLE_RATE, 1, 1), (FRAMES,) * CHUNKS)


def begin(store, hls=True):
    scene_frames = ((0, 24), (24, 72))
    card = TakeCard(
        title="A <b>fake</b> film",
        model="fake",
        fps=str(FPS),
        sample_rate=SAMPLE_RATE,
        frames=FRAMES * CHUNKS,
        samples=SPANS[-1].samples.stop,
        chunk_stops=tuple(span.frames.stop for span in SPANS),
        scenes=tuple(
            SceneCard(prompt=f"scene {i}", cut=True, frames=frames, chunks=(frames[0] // FRAMES, frames[1] // FRAMES))
            for i, frames in enumerate(scene_frames)
        ),
        film="film.mp4",
        hls=hls,
    )
    put_take(store, card)


def segments():
    encode = EncodeStage(FPS, quality=20)
    for span in SPANS:
        yield encode(fake_frames(span, 48, 80), fake_sound(span.samples, SAMPLE_RATE, 2))


@contextmanager
def rendering(store):
    """A fake render; yields a function that publishes the next segment."""
    with EventLog(store) as log:
        log.event("road.start", road="fake", torch="none", threads=1)
        log.event("film.start", chunks=CHUNKS, frames=FRAMES * CHUNKS, samples=SPANS[-1].samples.stop)
        with PublishStage(store, PublishOptions(FPS, longest_chunk_s=FRAMES / FPS)) as publish:

            def one_more(segment):
                chunk = {"chunk": segment.span.index, "scene": segment.span.scene, "seconds": 0.005}
                for name in ("embed", "denoise", "decode", "encode"):
                    log.event(f"{name}.chunk", **chunk)
                publish(segment)
                log.event("publish.chunk", **chunk)

            yield one_more
        log.event("film.done", url=publish.film.url, frames=publish.film.num_frames)


def whole_take(store):
    begin(store)
    with rendering(store) as publish:
        for segment in segments():
            publish(segment)
    return store


@contextmanager
def serving(store):
    with WatchServer(store) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def fetch(server, path, method="GET", **headers):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module", params=["local", "remote"])
def store(request, tmp_path_factory):
    local = request.param == "local"
    return whole_take(Store(str(tmp_path_factory.mktemp("take")) if local else f"memory://{uuid4()}"))


@pytest.fixture(scope="module")
def server(store):
    with serving(store) as server:
        yield server


def test_the_page_and_its_parts_come_from_here_alone(server):
    for path, (_, content_type) in PAGE.items():
        status, headers, body = fetch(server, path)
        assert (status, headers["Content-Type"]) == (200, content_type)
        assert body
        assert b"//cdn" not in body
        for name, value in HEADERS.items():
            assert headers[name] == value
    assert b'src="http' not in fetch(server, "/")[2]


def test_the_status_and_the_events_are_served_as_json(server):
    status = json.loads(fetch(server, "/status.json")[2])
    assert (status["state"], status["published"], status["plays"]) == ("done", CHUNKS, "film.mp4")
    events = json.loads(fetch(server, "/events?from=0")[2])
    assert (events["from"], events["next"]) == (0, 3 + 5 * CHUNKS)
    assert [event["event"] for event in events["events"]][:2] == ["road.start", "film.start"]
    later = json.loads(fetch(server, f"/events?from={events['next'] - 1}")[2])
    assert [event["event"] for event in later["events"]] == ["film.done"]
    assert json.loads(fetch(server, f"/events?from={events['next']}")[2])["events"] == []
    for begun_anew in ("999", "-1", "x", ""):
        assert json.loads(fetch(server, f"/events?from={begun_anew}")[2])["from"] == 0


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("film.mp4", "video/mp4"),
        ("live/master.m3u8", "application/vnd.apple.mpegurl"),
        ("events.jsonl", "application/x-ndjson"),
        ("journal/take.json", "application/json"),
    ],
)
def test_files_of_the_take_are_served_whole_with_their_type(server, store, name, content_type):
    status, headers, body = fetch(server, f"/take/{name}")
    assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, content_type, "bytes")
    assert body == store.get(name)
    status, headers, body = fetch(server, f"/take/{name}", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(store.get(name))), b"")


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("0-", 0, None), ("0-0", 0, 1), ("100-199", 100, 200), ("-50", -50, None), ("1000-99999999", 1000, None)],
)
def test_parts_of_the_film_are_served(server, store, wanted, start, stop):
    film = store.get("film.mp4")
    status, headers, body = fetch(server, "/take/film.mp4", Range=f"bytes={wanted}")
    assert status == 206
    assert body == film[start:stop]
    first = start % len(film)
    assert headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(film)}"


def test_a_range_beyond_the_film_is_refused_and_a_malformed_one_is_ignored(server, store):
    film = store.get("film.mp4")
    status, headers, body = fetch(server, "/take/film.mp4", Range=f"bytes={len(film)}-")
    assert (status, headers["Content-Range"], body) == (416, f"bytes */{len(film)}", b"")
    for nonsense in ("bytes=-", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", "bytes"):
        status, _, body = fetch(server, "/take/film.mp4", Range=nonsense)
        assert (status, body) == (200, film)


@pytest.mark.parametrize(
    "path",
    [
        "/take/../../etc/passwd.json",
        "/take/..%2f..%2fsecret.json",
        "/take/live/%2e%2e/%2e%2e/secret.json",
        "/take//etc/secret.json",
        "/take/%00.json",
        "/take/live",
        "/take/",
        "/take/nothing.mp4",
        "/take/journal",
        "/take/live\\..\\secret.json",
        "/server.py",
        "/page.html/../server.py",
        "/nothing",
    ],
)
def test_files_outside_the_take_are_not_found(server, path):
    assert fetch(server, path)[0] == 404


def test_a_link_out_of_the_take_is_not_followed(tmp_path):
    store = whole_take(Store(str(tmp_path / "take")))
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "take" / "secret.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "take" / "same.mp4").symlink_to(tmp_path / "take" / "film.mp4")
    with serving(store) as server:
        assert fetch(server, "/take/secret.json")[0] == 404
        assert fetch(server, "/take/same.mp4")[0] == 200


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", 200),
        ("localhost:8000", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_only_this_machine_may_open_the_page(server, host, code):
    for path in ("/", "/status.json", "/take/film.mp4"):
        assert fetch(server, path, Host=host)[0] == code


def test_only_reading_is_possible(server):
    assert fetch(server, "/take/film.mp4", method="DELETE")[0] == 501
    assert fetch(server, "/status.json", method="POST")[0] == 501


def test_the_page_waits_for_a_render_that_has_not_begun(tmp_path):
    store = Store(str(tmp_path))
    with serving(store) as server:
        status, _, body = fetch(server, "/status.json")
        assert (status, "this page waits for it" in json.loads(body)["error"]) == (503, True)
        begin(store)
        assert json.loads(fetch(server, "/status.json")[2])["state"] == "rendering"


def longtake(*arguments):
    return forked.run("-m", "longtake.jobs", *arguments, cwd=ROOT, env={**os.environ, "COLUMNS": "160"})


def test_the_status_command_prints_the_progress_of_a_take(tmp_path):
    assert longtake("status", tmp_path).returncode == 2
    whole_take(Store(str(tmp_path)))
    answer = longtake("status", tmp_path, "--watch")
    assert answer.returncode == 0
    for part in ("A <b>fake</b> film", "done", "The film is complete: 6 chunks", "publish", "6/6", "scene 1"):
        assert part in answer.stdout
    (line,) = longtake("status", tmp_path, "--json").stdout.splitlines()
    assert json.loads(line)["state"] == "done"


def test_the_watch_command_serves_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "longtake.jobs", "watch", str(tmp_path), "--no-open"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        assert "waits" in process.stdout.readline(), "it may be started before the render"
        process.send_signal(2)
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()


NOW = "document.getElementById('video').currentTime"
DONE = "Object.fromEntries([...document.querySelectorAll('.act')].map(row => [row.dataset.act, +row.dataset.done]))"
WIDTHS = "[...document.querySelectorAll('.act .bar i:first-child, #published')].map(bar => parseFloat(bar.style.width))"
BARS = "document.querySelectorAll('#chart svg g').length"


@needs_chromium
def test_the_page_plays_a_film_while_it_is_rendered(tmp_path):
    store = Store(str(tmp_path / "take"))
    begin(store)
    film = list(segments())
    with serving(store) as server, debugging(tmp_path / "profile") as page:
        page.open(server.url)
        with rendering(store) as publish:
            page.wait_for("document.getElementById('title')?.textContent == 'A <b>fake</b> film'")
            assert page.ask(NOW) == 0
            for segment in film[:3]:
                publish(segment)
            page.wait_for(f"{NOW} > 0.3")
            before = page.wait_for(f"({DONE}).publish == 3 && {{done: {DONE}, widths: {WIDTHS}, bars: {BARS}}}")
            assert before["done"] == dict.fromkeys(("embed", "denoise", "decode", "encode", "publish"), 3)
            assert before["widths"] == [50.0] * 6
            assert before["bars"] == 3
            page.wait_for("document.getElementById('notice').textContent == 'Rendering the next chunk …'")
            assert 0.9 < page.ask(NOW) <= 1.5
            assert not store.exists("film.mp4")
            for segment in film[3:]:
                publish(segment)
            page.wait_for(f"({DONE}).publish == {CHUNKS} && {BARS} == {CHUNKS}")
            page.wait_for(f"{NOW} > 1.6")
            assert not store.exists("film.mp4"), "it continued past the first three chunks while rendering"
        page.wait_for(
            "document.getElementById('state').dataset.state == 'done' && document.getElementById('video').ended"
        )
        assert page.ask(WIDTHS) == [100.0] * 6
        assert page.ask(NOW) == pytest.approx(float(FRAMES * CHUNKS / FPS), abs=1e-6)
        assert page.ask("document.getElementById('log').lastChild.textContent").endswith("film.mp4")

        page.open(server.url + "#again")  # the whole film, as a file
        page.call("Page.reload")
        page.wait_for(f"document.getElementById('video')?.src.endsWith('/take/film.mp4') && {NOW} > 0.3")
        page.ask("document.getElementById('newest').click()")
        page.wait_for(f"{NOW} > 2")
        assert page.troubles == []


PLAY_LIVE = """import("/live_player.js").then(({playLive}) => {
  const video = document.body.appendChild(document.createElement("video"));
  video.muted = true;
  Object.assign(window, {long: video, player: playLive(video, "/take/live/master.m3u8")});
  video.play();
})"""
HELD = """Array.from({length: long.buffered.length}, (_, i) => [long.buffered.start(i), long.buffered.end(i)])
  .flat().map(Math.floor).join()"""


@needs_chromium
def test_the_player_holds_a_window_of_a_long_film_and_seeks_anywhere(tmp_path):
    store, fps, seconds = Store(str(tmp_path / "take")), Fraction(4), 120
    begin(store)
    encode = EncodeStage(fps, quality=30)
    with PublishStage(store, PublishOptions(fps, longest_chunk_s=Fraction(1))) as publish:
        for span in fake_spans(MediaClock(fps, SAMPLE_RATE, 1, 1), (4,) * seconds):
            publish(encode(fake_frames(span, 32, 32), fake_sound(span.samples, SAMPLE_RATE, 1)))
    with serving(store) as server, debugging(tmp_path / "profile") as page:
        page.open(server.url)
        page.wait_for("document.getElementById('title')?.textContent == 'A <b>fake</b> film'")
        page.ask(PLAY_LIVE)
        page.wait_for("window.long?.currentTime > 0.2")
        page.ask("long.pause(); long.currentTime = 0.5")
        page.wait_for(f"/^0,3[012]$/.test({HELD})")
        page.ask("long.currentTime = 80.5")
        page.wait_for(f"/^(79|80),11[012]$/.test({HELD})")  # earlier parts are evicted
        page.ask("long.play()")
        page.wait_for("long.currentTime > 80.7")
        page.ask("long.currentTime = 119.3")
        page.wait_for("long.ended")
        assert page.ask("long.duration") == seconds
        page.ask("long.currentTime = 3; long.play()")
        page.wait_for("long.currentTime > 3.2 && !long.ended")
        assert page.troubles == []
