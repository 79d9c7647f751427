"""What a browser does with a film is what users see: it must play to its end, in step and without an error."""

import json
import queue
import threading
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from longtake.jobs import watch
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.journal.store import Store
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.stages.publish import PublishOptions, PublishStage
from longtake.pipeline.testing.media import fake_frames, fake_sound, fake_spans
from tests.browser import browsing, needs_chromium

pytestmark = needs_chromium

FPS = Fraction(24000, 1001)
LENGTHS = (10, 7, 1, 20, 33, 5)
SAMPLE_RATE = 16000
DURATION_S = float(sum(LENGTHS) / FPS)
TIMEOUT_S = 40
CONTENT_TYPES = {"m3u8": "application/vnd.apple.mpegurl", "mp4": "video/mp4", "m4s": "video/iso.segment"}

# The product's own player, told to report.
PLAYER = Path(watch.__file__).with_name("live_player.js")
PAGE = """<!doctype html><video id="video" muted></video><script type="module">
import {playLive} from "/live_player.js";
const video = document.getElementById("video");
const {how, url, rate} = JSON.parse(decodeURIComponent(location.hash.slice(1)));
let player, buffers;
const report = (what, more) => fetch("/report", {method: "POST", body: JSON.stringify({
  what, ended: video.ended, time_s: video.currentTime, duration_s: video.duration, width: video.videoWidth,
  error: video.error && video.error.message, frames: video.getVideoPlaybackQuality().totalVideoFrames,
  sound_bytes: video.webkitAudioDecodedByteCount, ...more})});
video.onended = () => report("ended", {buffers});
video.onerror = () => report("error");
let told = false;
video.ontimeupdate = () => { if (video.currentTime > 0 && !told) { told = true; report("playing"); } };
const fail = error => report("failed", {message: String(error)});
video.defaultPlaybackRate = video.playbackRate = rate;
const ranges = times => Array.from({length: times.length}, (_, i) => [times.start(i), times.end(i)]);
if (how === "mse") {
  player = playLive(video, url, {onFailure: fail});
  player.on("hlsBufferAppended", (_, {timeRanges: {video, audio}}) => {
    buffers = {video: ranges(video), audio: ranges(audio)};
  });
} else video.src = url;
video.play().catch(fail);
</script>"""


def render():
    encode = EncodeStage(FPS, quality=20)
    for span in fake_spans(MediaClock(FPS, SAMPLE_RATE, 1, 1), LENGTHS):
        yield encode(fake_frames(span, 96, 160), fake_sound(span.samples, SAMPLE_RATE, 2))


def publisher(store):
    return PublishStage(store, PublishOptions(FPS, longest_chunk_s=max(LENGTHS) / FPS))


@pytest.fixture(scope="module")
def store():
    store = Store(f"memory://{uuid4()}")
    with publisher(store) as publish:
        for segment in render():
            publish(segment)
    return store


@contextmanager
def served(store):
    """A web server over a store on loopback; gives its address and the queue of what pages report."""
    reports = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = urlsplit(self.path).path.removeprefix("/")
            if path == "page":
                self.answer(200, "text/html", PAGE.encode())
            elif path in (PLAYER.name, "hls.mjs"):
                self.answer(200, "text/javascript", PLAYER.with_name(path).read_bytes())
            elif path and store.exists(path):
                self.send_part(CONTENT_TYPES[path.rpartition(".")[2]], store.get(path))
            else:
                self.answer(404, "text/plain", b"")

        def do_POST(self):
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(204, "text/plain", b"")

        def send_part(self, content_type, data):
            wanted = self.headers.get("Range")
            if wanted is None:
                self.answer(200, content_type, data)
                return
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(data)) if last else len(data)
            if start >= stop:
                self.answer(416, content_type, b"", ("Content-Range", f"bytes */{len(data)}"))
                return
            self.answer(206, content_type, data[start:stop], ("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"))

        def answer(self, status, content_type, body, *headers):
            self.send_response(status)
            for name, value in (("Content-Type", content_type), ("Content-Length", str(len(body))), *headers):
                self.send_header(name, value)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep the tests' output quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", reports
        finally:
            server.shutdown()
            thread.join()


def page_of(address, **config):
    return f"{address}/page#{json.dumps(config)}"


def next_report(reports, what):
    report = reports.get(timeout=TIMEOUT_S)
    assert report["what"] == what, report
    return report


def assert_played_whole(report):
    assert report["ended"]
    assert report["error"] is None
    assert report["frames"] == sum(LENGTHS)
    assert report["sound_bytes"] > 0
    assert report["width"] == 160
    assert report["time_s"] == report["duration_s"] == pytest.approx(DURATION_S, abs=1e-6)


@pytest.mark.parametrize(
    ("how", "url"), [("native", "/film.mp4"), ("native", "/live/master.m3u8"), ("mse", "/live/master.m3u8")]
)
def test_a_browser_plays_the_film_to_its_end(store, tmp_path, how, url):
    with served(store) as (address, reports), browsing(page_of(address, how=how, url=url, rate=2), tmp_path):
        next_report(reports, "playing")
        report = next_report(reports, "ended")
    assert_played_whole(report)
    if how == "mse":
        (sound,) = report["buffers"]["audio"]
        (picture,) = report["buffers"]["video"]
        num_samples = int(sum(LENGTHS) / FPS * SAMPLE_RATE)
        assert sound == [0, pytest.approx(num_samples / SAMPLE_RATE, abs=1e-6)]
        assert picture == [0, pytest.approx(DURATION_S, abs=1e-6)]


# Not natively: Chromium 156 skips whole segments of a live playlist that grows faster than it plays.
def test_a_browser_follows_a_film_that_is_still_being_rendered(tmp_path):
    store = Store(f"memory://{uuid4()}")
    film = list(render())
    with served(store) as (address, reports), ExitStack() as stack:
        with publisher(store) as publish:
            for segment in film[:4]:
                publish(segment)
            page = page_of(address, how="mse", url="/live/master.m3u8", rate=1)
            stack.enter_context(browsing(page, tmp_path))
            next_report(reports, "playing")
            assert not store.exists("film.mp4")
            for segment in film[4:]:
                publish(segment)
        report = next_report(reports, "ended")
    assert_played_whole(report)
