import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from longtake.pipeline.errors import JournalError, MediaError, SpecError
from longtake.pipeline.footage.cuts import find_cuts, small_pictures
from longtake.pipeline.footage.encode import FootageSegment
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.streaming_upscaler import grid_of
from longtake.pipeline.models.upscaler import TINY_UPSCALER, Upscaler
from longtake.pipeline.provenance import check_same
from longtake.pipeline.upscale_film import cuts_of, forget, upscale
from longtake.pipeline.upscaling.boundary import boundary_error
from longtake.pipeline.upscaling.footage_segment import FootageSegmentMaker
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import Exact, Handoff, UpscaleSpec, WarmUp
from longtake.pipeline.upscaling.work import PLAN_NAME, numerics, open_upscaling
from tests.upscale_clip import CUT, FRAMES, HEIGHT, WIDTH, packets_of, write_clip

MODEL = Upscaler.untrained(replace(TINY_UPSCALER, width=4, attentions=1, window=2))
WISH = UpscaleSpec(segment_frames=12, codec="ffv1")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_footage(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4"))


class KilledError(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


class Recorder:
    """Remembers events, and ends the work right behind one of them, if asked to."""

    def __init__(self, kill_at=None):
        self.events, self._kill_at = [], kill_at

    def event(self, name, **fields):
        self.events.append((name, fields))
        if (name, fields.get("segment")) == self._kill_at:
            raise KilledError

    @property
    def made(self):
        return [fields["segment"] for name, fields in self.events if name == "upscale.segment"]


def run(clip, out, spec=WISH, model=MODEL, **observing):
    recorder = Recorder(**observing)
    upscaled = upscale(clip, spec, model, Output(str(out)), recorder)
    return upscaled, recorder


def work_of(clip, out, spec=WISH, model=MODEL):
    journal = Output(str(out)).journal
    return open_upscaling(clip, cuts_of(clip, spec, journal), spec, journal, numerics(model), grid_of(model))


def test_what_was_begun_before_the_arithmetic_was_recorded_keeps_its_keys(clip, tmp_path):
    out = tmp_path / "out.mkv"
    exact = work_of(clip, out)
    older = replace(exact, numerics={name: part for name, part in exact.numerics.items() if name != "cpu arithmetic"})
    assert older.keys != exact.keys
    older.store.put(PLAN_NAME, json.dumps(older.card()).encode())
    assert work_of(clip, out).keys == older.keys
    check_same(numerics(MODEL), work_of(clip, out).numerics)
    work_of(clip, out).store.put(PLAN_NAME, json.dumps(exact.card()).encode())
    assert work_of(clip, out).keys == exact.keys


@pytest.fixture(scope="module")
def finished(clip, tmp_path_factory):
    """A folder that holds an output and its journal."""
    folder = tmp_path_factory.mktemp("finished")
    run(clip, folder / "out.mkv")
    return folder


@pytest.fixture(scope="module")
def undisturbed(finished):
    return packets_of(finished / "out.mkv")


@pytest.fixture
def out(finished, tmp_path):
    """An output of its own for a test, finished."""
    shutil.copytree(finished, tmp_path / "finished")
    return tmp_path / "finished" / "out.mkv"


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    """One pass over every scene, without a border inside."""
    out = tmp_path_factory.mktemp("whole") / "out.mkv"
    run(clip, out, replace(WISH, segment_frames=1000))
    return decoded(out)


def decoded(path):
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray() for frame in film.decode(video=0)])


@pytest.mark.parametrize("continuity", [Exact(), Handoff(), WarmUp(MODEL.history_frames)], ids=str)
def test_segments_equal_one_uninterrupted_pass_bit_for_bit(continuity, clip, whole, tmp_path):
    upscaled, recorder = run(clip, tmp_path / "out.mkv", replace(WISH, continuity=continuity))
    assert len(recorder.made) == 6, "three in the first scene, three in the second"
    assert np.array_equal(decoded(tmp_path / "out.mkv"), whole)
    assert upscaled.error is None, "nothing is approximated"


def test_a_warm_up_that_is_too_short_shows_and_its_error_is_measured(clip, whole, tmp_path):
    upscaled, _ = run(clip, tmp_path / "out.mkv", replace(WISH, continuity=WarmUp(0)))
    assert not np.array_equal(decoded(tmp_path / "out.mkv"), whole)
    assert 0 < upscaled.error.mean < upscaled.error.most
    assert upscaled.error.frames.start == 12
    exact = boundary_error(work_of(clip, tmp_path / "exact.mkv"), MODEL)
    assert exact.most == 0


def test_the_output_holds_every_frame_at_its_time_and_the_sound_as_it_was(clip, tmp_path):
    run(clip, tmp_path / "out.mp4", replace(WISH, codec="h264", scale=4))
    large = open_footage(str(tmp_path / "out.mp4"))
    assert (large.width, large.height) == (4 * WIDTH, 4 * HEIGHT)
    times = [clip.time_base * (pts - clip.pts[0]) for pts in clip.pts]
    assert [large.time_base * (pts - large.pts[0]) for pts in large.pts] == times
    assert packets_of(tmp_path / "out.mp4")["audio"] == packets_of(clip.url)["audio"]
    small = torch.stack(list(read_pictures(clip, range(8))))
    back = torch.stack(list(read_pictures(large, range(8))))
    shrunk = torch.nn.functional.interpolate(back, scale_factor=0.25, mode="area")
    assert (shrunk - small).abs().mean() < 0.05


def test_the_cut_is_found_and_is_where_the_model_starts_afresh(clip, tmp_path):
    work = work_of(clip, tmp_path / "out.mkv")
    assert work.plan.scenes == (range(CUT), range(CUT, FRAMES))
    assert work_of(clip, tmp_path / "out.mkv", replace(WISH, scene_threshold=0)).plan.scenes == (range(FRAMES),)


def test_cuts_are_looked_for_once(clip, tmp_path, monkeypatch):
    work_of(clip, tmp_path / "out.mkv")
    monkeypatch.setattr("longtake.pipeline.upscale_film.small_pictures", None)
    assert work_of(clip, tmp_path / "out.mkv").plan.scenes[1].start == CUT
    with pytest.raises(TypeError):
        work_of(clip, tmp_path / "out.mkv", replace(WISH, scene_threshold=0.2))


@pytest.mark.parametrize("continuity", [Exact(), Handoff()], ids=str)
def test_a_run_that_was_killed_three_times_continues_and_no_bit_differs(continuity, clip, undisturbed, tmp_path):
    spec, made, passed = replace(WISH, continuity=continuity), [], {}
    for kill in (0, 2, 5):
        recorder = Recorder(kill_at=("upscale.segment", kill))
        with pytest.raises(KilledError):
            upscale(clip, spec, MODEL, Output(str(tmp_path / "killed.mkv")), recorder)
        assert not (tmp_path / "killed.mkv").exists()
        made += recorder.made
        passed |= {fields["segment"]: fields["passed_frames"] for _, fields in recorder.events if "segment" in fields}
    _, last = run(clip, tmp_path / "killed.mkv", spec)
    assert (made, last.made) == (list(range(6)), []), "what was kept is not made twice"
    assert packets_of(tmp_path / "killed.mkv") == undisturbed
    if isinstance(continuity, Handoff):
        assert all(passed[segment] <= 12 for segment in passed), "the state was kept"


def test_a_state_that_was_lost_is_made_anew_from_the_scenes_start(clip, undisturbed, tmp_path):
    spec = replace(WISH, continuity=Handoff())
    with pytest.raises(KilledError):
        run(clip, tmp_path / "out.mkv", spec, kill_at=("upscale.segment", 1))
    states = list((tmp_path / "out.mkv.longtake" / "journal" / "states").iterdir())
    assert len(states) == 2, "only the newest state is kept: its data and its manifest"
    for state in states:
        state.write_bytes(b"torn")
    _, recorder = run(clip, tmp_path / "out.mkv", spec)
    assert packets_of(tmp_path / "out.mkv") == undisturbed
    assert recorder.events[1][1]["passed_frames"] == CUT


def test_a_second_run_does_nothing(clip, out):
    before = out.stat()
    upscaled, recorder = run(clip, out)
    assert not upscaled.written.is_new
    assert recorder.events == []
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("harm", ["gone", "damaged", "torn manifest"])
def test_a_segment_that_was_harmed_is_made_anew_and_no_other(harm, clip, out, undisturbed):
    data = sorted(Path(f"{out}.longtake", "journal", "segments").glob("*.bin"))[3]
    manifest = next(data.parent.glob(f"{data.stem.rsplit('-', 1)[0]}.json"))
    if harm == "gone":
        data.unlink()
    elif harm == "damaged":
        data.write_bytes(data.read_bytes()[:-1] + b"?")
    else:
        manifest.write_text("{")
    out.unlink()
    _, recorder = run(clip, out)
    assert recorder.made == [3]
    assert packets_of(out) == undisturbed


@pytest.mark.parametrize(
    ("edit", "made"),
    [
        ({"end": "50f"}, [4]),  # the last segment ends earlier, and none before it changes
        ({"codec": "h264"}, list(range(6))),
        ({"scene_threshold": 0.05}, []),
    ],
    ids=str,
)
def test_an_edited_wish_redoes_what_it_must_and_keeps_the_rest(edit, made, clip, out, tmp_path):
    edited = replace(WISH, **edit)
    _, recorder = run(clip, out, edited)
    assert recorder.made == made
    run(clip, tmp_path / "alone.mkv", edited)
    assert packets_of(out) == packets_of(tmp_path / "alone.mkv")
    left = {name.split("/")[-1][:8] for name in Store(f"{out}.longtake").list("journal/segments")}
    assert len(left) == len(work_of(clip, out, edited).plan.segments), "what the output does not need is cleared away"
    name, value = next(iter(edit.items()))
    changes = [fields["changes"] for event, fields in recorder.events if event == "film.start"]
    assert changes == ([[f"{name} was {vars(WISH)[name]}, is {value}"]] if made else [])


def test_forgetting_makes_everything_anew(clip, out):
    forget(Output(str(out)))
    upscaled, recorder = run(clip, out)
    assert recorder.made == list(range(6))
    assert upscaled.written.is_new


def test_other_weights_are_another_film(clip, out):
    _, recorder = run(clip, out, model=Upscaler.untrained(MODEL.config, seed=1))
    assert recorder.made == list(range(6))


def test_what_stands_there_and_is_not_ours_is_not_overwritten(clip, tmp_path):
    (tmp_path / "out.mkv").write_bytes(b"precious")
    with pytest.raises(SpecError, match="use another -o"):
        run(clip, tmp_path / "out.mkv")
    assert (tmp_path / "out.mkv").read_bytes() == b"precious"


def test_a_second_writer_is_told_who_the_first_is(clip, tmp_path):
    class Second(Recorder):
        def event(self, name, **fields):
            with pytest.raises(JournalError, match=f"process {os.getpid()}"):
                run(clip, tmp_path / "out.mkv")

    upscale(clip, replace(WISH, segment_frames=1000), MODEL, Output(str(tmp_path / "out.mkv")), Second())


def test_an_output_on_another_store_is_written_whole(clip, undisturbed, tmp_path):
    url = f"memory://{tmp_path.name}/films/out.mkv"
    run(clip, url)
    (tmp_path / "fetched.mkv").write_bytes(Store(f"memory://{tmp_path.name}/films").get("out.mkv"))
    assert packets_of(tmp_path / "fetched.mkv") == undisturbed
    upscaled, _ = run(clip, url)
    assert not upscaled.written.is_new


def test_the_journal_holds_the_plan_and_no_worker_in_it(out):
    card = json.loads(Store(f"{out}.longtake").get("journal/upscale.json"))
    assert card["scenes"] == [[0, CUT], [CUT, FRAMES]]
    assert [segment["frames"] for segment in card["segments"]][:2] == [[0, 12], [12, 24]]
    assert card["segments"][1]["warm_up"] == [4, 12]
    assert card["wish"]["continuity"] == "exact"
    assert "workers" not in str(card)


def test_an_excerpt_is_a_film_of_its_own(clip, tmp_path):
    spec = replace(WISH, start="0.4s", end="1.2s")
    run(clip, tmp_path / "out.mkv", spec)
    assert work_of(clip, tmp_path / "out.mkv", spec).plan.frames == range(10, 30)
    assert len(decoded(tmp_path / "out.mkv")) == 20


def test_pictures_that_do_not_decode_end_the_work_with_their_number(clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    data = bytearray(Path(clip.url).read_bytes())
    broken.write_bytes(data)
    footage = open_footage(str(broken))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    broken.write_bytes(data)
    with pytest.raises(MediaError, match="picture"):
        run(footage, tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()


def test_a_segment_holds_one_chunk_at_a_time(clip, tmp_path):
    sizes = []

    class Watching(Upscaler):
        def forward(self, frames, state):
            sizes.append(len(frames))
            return super().forward(frames, state)

    model = Watching(MODEL.config).eval()
    work = work_of(clip, tmp_path / "out.mkv", replace(WISH, segment_frames=1000), model)
    made = FootageSegmentMaker(work, model)(work.plan.segments[1])
    assert (made.frames, made.passed_frames) == (27, 27)
    assert sizes == [4] * 6 + [3]
    assert len(FootageSegment.from_bytes(work.journal.segment(work.keys[1])).packets) == 27


# ------------------------------------------------------------------ cuts


def test_every_picture_is_seen_small_and_in_order(clip):
    seen = list(small_pictures(clip, range(7, 45)))
    assert [number for number, _ in seen] == list(range(7, 45))
    assert {picture.shape for _, picture in seen} == {(27, 48)}
    again = dict(small_pictures(clip, range(35, 40)))
    assert all(np.array_equal(again[number], picture) for number, picture in seen if number in again)


def grey(*levels):
    return list(enumerate(np.full((27, 48), level, dtype=np.uint8) for level in levels))


def test_a_cut_between_still_scenes_is_found():
    assert list(find_cuts(grey(*[50] * 20, *[120] * 20), 0.1)) == [20]
    assert list(find_cuts(grey(*[50] * 2, *[120] * 2), 0.1)) == [2]
    assert list(find_cuts(grey(50), 0.1)) == []
    assert list(find_cuts([], 0.1)) == []


def test_a_fade_a_flash_and_steady_flicker_are_no_cuts():
    assert list(find_cuts(grey(*range(0, 250, 5)), 0.01)) == []
    assert list(find_cuts(grey(*[50] * 20, 250, *[50] * 20), 0.1)) == []
    assert list(find_cuts(grey(*[50] * 20, 250, 240, *[52] * 20), 0.1)) == []
    assert list(find_cuts(grey(*[40, 120, 200] * 12), 0.1)) == []


def test_two_cuts_close_together_are_both_found():
    assert list(find_cuts(grey(*[50] * 20, *[120] * 5, *[200] * 20), 0.1)) == [20, 25]
