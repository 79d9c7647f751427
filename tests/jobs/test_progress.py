"""Progress with a clock that the test moves."""

import json
from io import StringIO

import pytest
from rich.console import Console

from longtake.jobs import progress as module
from longtake.jobs.feedback import Feedback
from longtake.jobs.progress import Progress
from longtake.pipeline.errors import SpecError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def shown(mode, **flags):
    """A progress that is looked at by hand, and the console that it prints to."""
    feedback = Feedback(mode, **flags)
    console = Console(file=StringIO(), width=200, quiet=feedback.quiet)
    feedback.__dict__["console"] = console
    return Progress(feedback, "loading PyTorch"), console.file


def look(progress, clock, seconds):
    """Let `seconds` pass in steps, as the thread would see them."""
    for _ in range(round(5 * seconds)):
        clock.now += 0.2
        progress._look(changed=False)


def test_plain_progress_prints_a_phase_after_a_second_and_then_a_line_every_ten(clock):
    progress, out = shown("plain")
    look(progress, clock, 0.8)
    assert out.getvalue() == ""
    look(progress, clock, 0.4)
    assert out.getvalue() == "loading PyTorch, 1 s\n"
    look(progress, clock, 22)
    assert out.getvalue().splitlines() == ["loading PyTorch, 1 s", "loading PyTorch, 11 s", "loading PyTorch, 21 s"]


def test_plain_progress_names_each_phase_that_lasts(clock):
    progress, out = shown("plain")
    for phase in ("starting Ray", "starting 6 actors", "loading tiny on 6 actors"):
        progress.phase(phase)
        look(progress, clock, 3)
    lines = out.getvalue().splitlines()
    assert lines == ["starting Ray, 1 s", "starting 6 actors, 1 s", "loading tiny on 6 actors, 1 s"]


def test_plain_progress_counts_with_speed_and_time_left_that_runs_down_between_two_chunks(clock):
    progress, out = shown("plain")
    progress.count("rendering", "chunks", 30, kept=10)
    look(progress, clock, 1)
    progress.update(12, speed="0.50 chunks/s", left_s=36.0)
    look(progress, clock, 10)
    assert out.getvalue().splitlines() == [
        "rendering: 10 of 30 chunks (10 were finished before), 1 s",
        "rendering: 12 of 30 chunks (10 were finished before), 0.50 chunks/s, about 26 s left",
    ]


def test_json_progress_prints_an_object_for_each_change_and_every_ten_seconds(clock, capsys):
    progress, _ = shown("json")
    progress.phase("starting Ray")
    look(progress, clock, 10.2)
    progress.count("rendering", "chunks", 3)
    progress.update(1)
    progress.update(2, left_s=1.5, realtime=0.8)
    progress.say("denoise died; replacing it.")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("phase") for line in lines] == ["starting Ray", "starting Ray", *["rendering"] * 3, None]
    assert lines[1]["phase_s"] == pytest.approx(10, abs=0.3)
    assert (lines[4]["done"], lines[4]["total"], lines[4]["eta_s"], lines[4]["realtime"]) == (2, 3, 1.5, 0.8)
    assert lines[5]["message"] == "denoise died; replacing it."


@pytest.mark.parametrize("flags", [{"mode": "none"}, {"mode": "bars", "quiet": True}])
def test_progress_that_is_off_prints_nothing(clock, flags):
    progress, out = shown(**flags)
    look(progress, clock, 30)
    progress.count("rendering", "chunks", 3)
    assert out.getvalue() == ""


def test_bars_show_a_phase_without_a_count_and_then_a_bar_for_each_stage(clock):
    feedback = Feedback("bars")
    console = Console(file=StringIO(), width=120, force_terminal=True)
    feedback.__dict__["console"] = console
    progress = Progress(feedback, "starting Ray")
    with progress:
        look(progress, clock, 2)
        progress.count("rendering", "chunks", 4)
        progress.stage("denoise", 2, 4, "500 ms/chunk")
        progress.update(1, speed="1.00 chunks/s", left_s=3.0)
        progress.say("a note")
    text = console.file.getvalue()
    for part in ("starting Ray, 2 s", "denoise", "500 ms/chunk", "rendering", "about 3 s left", "a note"):
        assert part in text


def test_auto_is_bars_in_a_terminal_and_plain_elsewhere():
    feedback = Feedback()
    feedback.__dict__["console"] = Console(file=StringIO(), force_terminal=True)
    assert feedback.mode == "bars"
    feedback = Feedback()
    feedback.__dict__["console"] = Console(file=StringIO())
    assert feedback.mode == "plain"


def test_more_and_less_at_once_is_refused():
    with pytest.raises(SpecError, match="-v prints more and -q prints less"):
        Feedback(verbose=1, quiet=True)


def test_a_result_is_text_or_one_json_object_and_notes_then_go_elsewhere(capsys):
    for feedback in (Feedback(), Feedback(json=True), Feedback("json"), Feedback(quiet=True)):
        feedback.console.print("a note")
        feedback.result("done", film="film.mp4")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["a note", "done", '{"film": "film.mp4"}', '{"film": "film.mp4"}', "done"]
    assert printed.err.splitlines() == ["a note", "a note"]
