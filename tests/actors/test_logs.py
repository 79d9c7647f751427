import io
import json
from contextlib import suppress
from threading import Thread

import pytest

from longtake.actors import logs


@pytest.fixture
def logged():
    stream = io.StringIO()
    log = logs.configure(stream)
    yield log, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.bind(take=None, act=None, rank=None, epoch=None)
    log.handlers.clear()
    log.propagate = True


def test_a_line_holds_bound_fields_its_context_and_what_the_call_adds(logged):
    log, lines = logged
    logs.bind(take="s3://films/one", act="denoise", rank=1, epoch=2)
    with logs.context(chunk=7):
        log.info("chunk.late", extra={"fields": {"seconds": 1.5}})
    log.warning("gang.closed")
    late, closed = lines()
    assert late.pop("time").endswith("+00:00")
    bound = {"take": "s3://films/one", "act": "denoise", "rank": 1, "epoch": 2}
    assert late == {"level": "info", "event": "chunk.late", **bound, "chunk": 7, "seconds": 1.5}
    assert "chunk" not in closed


def test_contexts_nest_and_end_also_with_an_error(logged):
    log, lines = logged
    with logs.context(chunk=1):
        with suppress(ZeroDivisionError), logs.context(rank=0):
            log.info("inner")
            raise ZeroDivisionError
        log.info("outer")
    log.info("after")
    inner, outer, after = lines()
    assert (inner["chunk"], inner["rank"]) == (1, 0)
    assert (outer["chunk"], outer.get("rank"), after.get("chunk")) == (1, None, None)


def test_bound_fields_hold_for_all_threads_and_a_context_for_its_own(logged):
    log, lines = logged
    logs.bind(act="encode")
    with logs.context(chunk=3):
        thread = Thread(target=log.info, args=("heartbeat",))
        thread.start()
        thread.join()
    [line] = lines()
    assert (line["act"], line.get("chunk")) == ("encode", None)


def test_an_error_is_one_line_with_its_trace(logged):
    log, lines = logged
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("act.failed")
    [line] = lines()
    assert line["level"] == "error"
    assert line["error"].endswith("ValueError: two\nlines")


def test_values_without_a_json_form_are_written_as_text(logged):
    log, lines = logged
    log.info("odd", extra={"fields": {"path": io, "chunk": {1}}})
    assert lines()[0]["chunk"] == "{1}"
