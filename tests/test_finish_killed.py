"""SIGKILL inside the publisher's finish: no half a film is ever seen, and the next render ends with the same bits."""

import os
import shutil
import signal
from io import FileIO
from pathlib import Path

import pytest
import torch

from longtake.jobs.bench.ranks import fork_server
from longtake.pipeline import film
from longtake.pipeline.journal import store as store_module
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.hls import LiveFilm
from longtake.pipeline.media.mp4 import FilmFile
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.load import load_model

STORYBOARD = """
model: tiny
sampling: {steps: 1, guidance: 1}
scenes:
  - {prompt: a red circle bounces fast, duration: 2.6s}
  - {prompt: a green triangle glides, duration: 37f, transition: cut}
"""


def render_into(folder):
    torch.set_num_threads(1)
    storyboard = parse_storyboard(STORYBOARD)
    model = load_model(storyboard.model)
    film.render(open_take(plan_film(storyboard, model), model, Store(str(folder)), numerics(model)))


# ------------------------------------------------------------------ in the process that is killed


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class MortalFile(FileIO):
    """The muxer's file; dies half-way through a write, counted from the moment the muxer is told to close."""

    writes_left = None

    def write(self, data):
        if MortalFile.writes_left == 0:
            super().write(data[: len(data) // 2])
            die()
        if MortalFile.writes_left is not None:
            MortalFile.writes_left -= 1
        return super().write(data)


def die_in_the_muxer(num_writes):
    open_path, close = Path.open, FilmFile.close

    def open_mortal(path, *arguments, **options):
        mortal = path.name == "film.mp4" and arguments == ("wb",)
        return MortalFile(path, "wb") if mortal else open_path(path, *arguments, **options)

    def close_mortal(self):
        MortalFile.writes_left = num_writes
        close(self)

    Path.open, FilmFile.close = open_mortal, close_mortal


def die_after_closing():
    close = FilmFile.close

    def close_and_die(self):
        close(self)
        die()

    FilmFile.close = close_and_die


def die_in_the_copy():
    def half(source, target):
        data = Path(source).read_bytes()
        Path(target).write_bytes(data[: len(data) // 2])
        die()

    store_module.shutil.copyfile = half


def die_at_the_rename(*, renamed):
    replace = Path.replace

    def replace_mortal(path, target):
        if renamed or Path(target).name != "film.mp4":
            replace(path, target)
        if Path(target).name == "film.mp4":
            die()

    Path.replace = replace_mortal


def die_in_the_playlists():
    LiveFilm.finish = lambda *_: die()


MOMENTS = {
    "first-write-of-the-index": lambda: die_in_the_muxer(0),
    "a-later-write-of-the-index": lambda: die_in_the_muxer(1),
    "film-put-together": die_after_closing,
    "half-copied": die_in_the_copy,
    "before-the-rename": lambda: die_at_the_rename(renamed=False),
    "after-the-rename": lambda: die_at_the_rename(renamed=True),
    "before-the-playlists-end": die_in_the_playlists,
}
FILM_IS_THERE = ("after-the-rename", "before-the-playlists-end")


def render_and_die(moment, folder):
    MOMENTS[moment]()
    render_into(folder)


# ------------------------------------------------------------------ in the process that looks


def published(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (folder / "film.mp4", *sorted((folder / "live").iterdir()))
        if not path.name.startswith(".")  # what a killed writer left half-written
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    render_into(folder)
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_publisher_killed_while_it_finishes_leaves_no_half_film_and_the_next_one_the_same(
    moment, undisturbed, tmp_path
):
    shutil.copytree(undisturbed / "journal", tmp_path / "journal")  # all chunks are finished: only the film is missing
    killed = fork_server().Process(target=render_and_die, args=(moment, str(tmp_path)))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    seen = tmp_path / "film.mp4"
    assert seen.exists() == (moment in FILM_IS_THERE)
    if seen.exists():
        assert seen.read_bytes() == (undisturbed / "film.mp4").read_bytes()

    render_into(tmp_path)
    assert published(tmp_path) == published(undisturbed)
    assert not [path for path in (tmp_path / "journal" / "scratch").rglob("*") if path.is_file()]
