"""A finished film is recognized at once, and is not overwritten in passing."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longtake.actors.rendering import RenderOptions, open_render, render
from longtake.jobs.cli import main
from longtake.jobs.render.request import Request
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.finished import NAME, num_finished_chunks, read_finished
from longtake.pipeline.journal.store import Store
from longtake.pipeline.observe import SILENT
from longtake.pipeline.spec import load_storyboard

ROOT = Path(__file__).parents[2]
BOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle, duration: 3s}]}"
SCRIPT = """
import sys
from longtake.jobs.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("code", end.code, *({"torch", "ray"} & sys.modules.keys()))
"""
OPTIONS = ("cpu", (1, None, None, "none", "exact", "auto", (None,) * 4))


def children_s():
    """CPU seconds of all subprocesses so far, which do not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    (root / "film.yaml").write_text(BOARD)
    command = ["render", str(root / "film.yaml"), "-o", str(root / "out"), "--in-process"]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert not end.value.code
    return root, command


def test_a_finished_film_is_recognized_within_two_seconds_and_without_a_model_or_ray(finished):
    _, command = finished
    before = children_s()
    again = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command[:-1]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "is finished: 3 of 3 chunks are kept, nothing to render" in again.stdout
    assert again.stdout.endswith("code 0\n"), "neither torch nor ray was imported"
    assert children_s() - before <= 2


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished take, with the times of its files."""
    root, _ = finished
    shutil.copytree(root / "out", tmp_path / "out", copy_function=shutil.copy2)
    return load_storyboard(str(root / "film.yaml")), str(tmp_path / "out")


CHANGES = {
    "the film": lambda out: (out / "film.mp4").write_bytes(b"changed"),
    "no film": lambda out: (out / "film.mp4").unlink(),
    "no playlist": lambda out: (out / "live" / "video.m3u8").unlink(),
    "no record": lambda out: (out / NAME).unlink(),
    "a damaged record": lambda out: (out / NAME).write_text("{"),
    "a damaged request": lambda out: (out / "journal" / "request.json").write_text("["),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_film_whose_files_have_changed_is_published_again(copy, change):
    storyboard, out = copy
    assert Request.of(storyboard, out, *OPTIONS).print_finished()
    CHANGES[change](Path(out))
    assert not Request.of(storyboard, out, *OPTIONS).print_finished()
    options = RenderOptions(in_process=True)
    take = open_render(storyboard, out, options)
    assert take.published() is None or "request" in change
    render(take, options, SILENT)
    assert take.published() is not None
    assert take.store.get("film.mp4") != b"changed"


def test_another_command_is_not_taken_for_the_one_that_rendered_the_film(copy, monkeypatch):
    storyboard, out = copy
    others = [
        Request.of(storyboard.model_copy(update={"seed": 3}), out, *OPTIONS),
        Request.of(storyboard, out, "cpu", (2, *OPTIONS[1][1:])),
        Request.of(storyboard, out, "cuda", OPTIONS[1]),
        Request.of(storyboard.model_copy(update={"model": "owner/name"}), out, *OPTIONS),
    ]
    monkeypatch.setattr("longtake.jobs.render.request.version", lambda *_: "0")
    assert not any(other.print_finished() for other in (*others, Request.of(storyboard, out, *OPTIONS)))


def test_weights_in_a_file_are_part_of_the_request(copy, tmp_path):
    storyboard, out = copy
    weights = tmp_path / "own.safetensors"
    own = storyboard.model_copy(update={"model": str(weights)})
    digests = []
    for content in (b"one", b"other"):
        weights.write_bytes(content)
        digests.append(Request.of(own, out, *OPTIONS).digest)
        os.utime(weights, ns=(len(digests), len(digests)))
    assert len({*digests}) == 2
    assert None not in digests


def edited(storyboard, seconds=3, seed=0, prompt="a red circle"):
    scene = storyboard.scenes[0].model_copy(update={"duration": f"{seconds}s", "prompt": prompt})
    return storyboard.model_copy(update={"scenes": (scene,), "seed": seed})


def test_a_finished_film_most_of_which_would_be_lost_is_kept_until_the_user_says_so(copy):
    storyboard, out = copy
    film = Path(out, "film.mp4").read_bytes()
    with pytest.raises(
        SpecError, match=r"3 of its 3 chunks would be lost \(seed was 0, is 5\); add --replace .*--fresh"
    ):
        open_render(edited(storyboard, seed=5), out, RenderOptions(in_process=True))
    with pytest.raises(SpecError, match=r"2 of its 3 chunks would be lost \(the storyboard is shorter\)"):
        open_render(edited(storyboard, seconds=1), out, RenderOptions(in_process=True))
    assert Path(out, "film.mp4").read_bytes() == film
    open_render(edited(storyboard, seconds=2), out, RenderOptions(in_process=True))
    open_render(edited(storyboard, seconds=9), out, RenderOptions(in_process=True))
    open_render(edited(storyboard, seed=5), out, RenderOptions(in_process=True, replace=True))
    assert open_render(edited(storyboard, seed=5), out, RenderOptions(in_process=True, fresh=True)).store.url != out


def test_a_replacement_that_was_interrupted_is_resumed_without_a_question(copy):
    storyboard, out = copy

    class Stops:
        def event(self, name, **fields):
            if name == "denoise.chunk":
                raise KeyboardInterrupt

    options = RenderOptions(in_process=True, replace=True)
    with pytest.raises(KeyboardInterrupt):
        render(open_render(edited(storyboard, seed=5), out, options), options, Stops())
    assert Path(out, "film.mp4").exists()
    assert read_finished(Store(out)) is None
    open_render(edited(storyboard, seed=5), out, RenderOptions(in_process=True))


def test_a_film_that_an_earlier_version_finished_counts_as_finished(copy):
    _, out = copy
    assert num_finished_chunks(Store(out)) == 3
    Path(out, NAME).unlink()
    assert num_finished_chunks(Store(out)) == 3
    with Path(out, "events.jsonl").open("a") as log:
        log.write('{"time": "2026-11-20T12:00:00.000+00:00", "event": "film.start"}\n')
    assert num_finished_chunks(Store(out)) == 0
