"""A headless Chromium that tests share: opened on a page, and asked over its debugging pipe what it sees."""

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
from contextlib import contextmanager
from itertools import count
from time import monotonic, sleep

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; apt-get install chromium")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
)


@contextmanager
def running(*arguments, **options):
    """Chromium for as long as the context is open."""
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def browsing(url, profile):
    """Chromium on a page that reports by itself."""
    # Without a debugger a headless Chromium quits at once.
    with running(f"--user-data-dir={profile}", "--remote-debugging-port=0", url):
        yield


@contextmanager
def debugging(profile, width=1280, height=1000):
    """Chromium with an empty `Page`, to be opened and asked."""
    down, up = os.pipe(), os.pipe()

    def wire():
        # Chromium reads commands from 3 and answers to 4; first out of the way, for a pipe may have these numbers.
        read, write = os.dup(down[0]), os.dup(up[1])
        while min(read, write) < 5:
            read, write = os.dup(read), os.dup(write)
        os.dup2(read, 3)
        os.dup2(write, 4)

    flags = (f"--user-data-dir={profile}", "--remote-debugging-pipe", f"--window-size={width},{height}")
    with os.fdopen(down[1], "wb") as commands, os.fdopen(up[0], "rb") as answers:
        with running(*flags, "about:blank", preexec_fn=wire, close_fds=False):
            os.close(down[0])
            os.close(up[1])
            page = Page(commands, answers)
            yield page
        page.listener.join()  # Chromium has ended, and with it the answers


class Page:
    """One page over the Chrome DevTools Protocol; `troubles` gathers its errors, warnings and failed requests."""

    def __init__(self, commands, answers, timeout_s=20):
        self.troubles = []
        self._commands, self._timeout_s = commands, timeout_s
        self._numbers, self._answers = count(1), queue.Queue()
        self.listener = threading.Thread(target=self._listen, args=(answers,), daemon=True)
        self.listener.start()
        (target,) = (t for t in self._call("Target.getTargets", None)["targetInfos"] if t["type"] == "page")
        attach = {"targetId": target["targetId"], "flatten": True}
        self._session = self._call("Target.attachToTarget", None, **attach)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, url):
        self.call("Page.navigate", url=url)

    def call(self, method, **parameters):
        return self._call(method, self._session, **parameters)

    def ask(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression, timeout_s=20):
        """The value of a JavaScript expression, once it is truthy."""
        until = monotonic() + timeout_s
        while not (value := self.ask(expression)):
            assert monotonic() < until, f"{expression} did not come true in {timeout_s} s; troubles: {self.troubles}"
            sleep(0.05)
        return value

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method, session, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._answers.get(timeout=self._timeout_s))["id"] != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _listen(self, answers):
        data = b""
        while block := os.read(answers.fileno(), 1 << 16):
            *messages, data = (data + block).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._judge(message["method"], message["params"])

    def _judge(self, method, what):
        bad = (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"))
            or (method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"))
            or (method == "Network.loadingFailed" and not what.get("canceled"))
            or (method == "Network.responseReceived" and what["response"]["status"] >= 400)
        )
        if bad:
            self.troubles.append((method, what))
