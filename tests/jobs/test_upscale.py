"""Upscaling by workers and by the command line: the same bits, however many workers there are or fail."""

import json
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest
import ray
import torch

from longtake.actors.policy import RetryPolicy
from longtake.actors.pool_config import Timeouts
from longtake.actors.upscale_actor import WorkerConfig
from longtake.actors.upscale_film import WorkerSetup, upscale
from longtake.actors.upscale_pool import UpscalePool, UpscalePoolConfig
from longtake.jobs.cli import main
from longtake.pipeline import upscale_film as alone
from longtake.pipeline.errors import CapacityError, JournalError, PoisonError
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import Exact, Handoff, UpscaleSpec
from longtake.pipeline.weights.load import load_upscaler
from tests import forked
from tests.adapters.flashvsr.tiny import save_tiny_flashvsr
from tests.upscale_clip import HEIGHT, WIDTH, packets_of, write_clip

ROOT = Path(__file__).parents[2]
WISH = UpscaleSpec(segment_frames=12)
TOOLS = WorkerConfig("tiny-upscaler")
PATIENCE = Timeouts(start=180, chunk=120)
RETRIES = RetryPolicy(back_off_s=0.1)
FLAGS = ("--model", "tiny-upscaler", "--segment-frames", "12")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_footage(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4"))


@pytest.fixture(scope="module")
def undisturbed(clip, tmp_path_factory):
    """The packets that one process writes, without Ray."""
    out = tmp_path_factory.mktemp("alone") / "out.mp4"
    torch.set_num_threads(1)
    alone.upscale(clip, WISH, load_upscaler(TOOLS.model), Output(str(out)))
    return packets_of(out)


class Recorder:
    """Records events, and calls `then` once after one of them."""

    def __init__(self, name="", then=None):
        self.events, self._name, self._then = [], name, then

    def event(self, name, **fields):
        self.events.append((name, fields))
        if name == self._name and self._then is not None:
            then, self._then = self._then, None
            then(self)

    def told(self, name, key):
        return [fields[key] for event, fields in self.events if event == name]


@pytest.fixture(scope="module")
def workers(ray_cluster):  # noqa: ARG001 (it stands as long as this)
    with UpscalePool(UpscalePoolConfig(5, TOOLS, cpus=0.5, timeouts=PATIENCE, retries=RETRIES)) as workers:
        yield workers


def shop_of(workers, count):
    model = load_upscaler(TOOLS.model)
    return WorkerSetup(nullcontext(workers), TOOLS, alone.numerics(model), alone.grid_of(model), count)


def run(clip, out, workers, count=2, spec=WISH, recorder=None):
    recorder = recorder or Recorder()
    return upscale(clip, spec, shop_of(workers, count), Output(str(out)), recorder), recorder


# ------------------------------------------------------------------ workers


@pytest.mark.parametrize(("count", "continuity"), [(5, Exact()), (2, Exact()), (1, Exact()), (2, Handoff())], ids=str)
def test_any_number_of_workers_makes_the_same_bits_as_one_process(
    count, continuity, clip, undisturbed, workers, tmp_path
):
    _, recorder = run(clip, tmp_path / "out.mp4", workers, count, replace(WISH, continuity=continuity))
    assert packets_of(tmp_path / "out.mp4") == undisturbed
    assert sorted(recorder.told("upscale.segment", "segment")) == list(range(6))
    assert set(recorder.told("upscale.segment", "worker")) <= set(range(count))


def strike(number):
    """Sends a signal to the worker that made the first segment, which is at the next one by then."""

    def then(recorder):
        worker = recorder.told("upscale.segment", "worker")[0]
        pids = dict(zip(recorder.told("actor.ready", "worker"), recorder.told("actor.ready", "pid"), strict=True))
        os.kill(pids[worker], number)

    return then


def test_a_worker_that_is_killed_is_replaced_and_no_bit_differs(clip, undisturbed, workers, tmp_path):
    recorder = Recorder("upscale.segment", strike(signal.SIGKILL))
    run(clip, tmp_path / "out.mp4", workers, 1, recorder=recorder)
    assert packets_of(tmp_path / "out.mp4") == undisturbed
    assert recorder.told("actor.replaced", "reason") == ["died"]
    assert sorted(recorder.told("upscale.segment", "segment")) == list(range(6)), "nothing is made twice"


def test_a_worker_that_hangs_is_replaced_and_no_bit_differs(clip, undisturbed, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "config", replace(workers.config, timeouts=replace(PATIENCE, chunk=6)))
    recorder = Recorder("upscale.segment", strike(signal.SIGSTOP))
    run(clip, tmp_path / "out.mp4", workers, 1, recorder=recorder)
    assert packets_of(tmp_path / "out.mp4") == undisturbed
    assert "was at it for" in recorder.told("actor.replaced", "reason")[0]
    assert sorted(recorder.told("upscale.segment", "segment")) == list(range(6)), "nothing is made twice"


def test_a_segment_that_fails_again_and_again_is_named_and_the_rest_is_kept(clip, undisturbed, workers, tmp_path):
    out = tmp_path / "out.mp4"
    broken = tmp_path / "out.mp4.longtake" / "journal" / "segments"

    def break_it(_):
        broken.rename(tmp_path / "aside")
        broken.symlink_to(tmp_path / "nowhere" / "at all")

    with pytest.raises(PoisonError, match=r"segment 1, frames 12\.\.23: a worker raised .*, 3 times now"):
        run(clip, out, workers, 1, recorder=Recorder("upscale.segment", break_it))
    broken.unlink()
    (tmp_path / "aside").rename(broken)
    _, recorder = run(clip, out, workers, 1)
    assert recorder.told("upscale.segment", "segment") == [1, 2, 3, 4, 5]
    assert packets_of(out) == undisturbed


@pytest.mark.usefixtures("ray_cluster")
def test_workers_hand_over_a_model_that_looks_ahead_and_make_the_bits_of_one_pass(clip, tmp_path):
    tools = WorkerConfig(save_tiny_flashvsr(tmp_path / "flashvsr.safetensors"))
    spec = UpscaleSpec(scale=4, segment_frames=16, codec="ffv1", continuity=Handoff())
    model = tools.load()
    alone.upscale(clip, replace(spec, segment_frames=1000), model, Output(str(tmp_path / "whole.mkv")))
    with UpscalePool(UpscalePoolConfig(2, tools, cpus=0.5, timeouts=PATIENCE, retries=RETRIES)) as workers:
        for count in (1, 2):
            shop = WorkerSetup(nullcontext(workers), tools, alone.numerics(model), alone.grid_of(model), count)
            out = tmp_path / f"{count}.mkv"
            upscale(clip, spec, shop, Output(str(out)), Recorder())
            assert packets_of(out) == packets_of(tmp_path / "whole.mkv")


def test_a_worker_that_would_make_other_bits_refuses(clip, workers, tmp_path):
    shop = shop_of(workers, 1)
    other = replace(shop, numerics={**shop.numerics, "torch": "1.0"})
    with pytest.raises(JournalError, match=r"torch is .*, not 1\.0"):
        upscale(clip, WISH, other, Output(str(tmp_path / "out.mp4")), Recorder())


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_do_not_fit_are_reported_with_their_resources(clip, tmp_path):
    refusal = pytest.raises(CapacityError, match=r"each asks for 400 CPUs and 0 GPUs, the cluster has 8 and 0")
    with UpscalePool(UpscalePoolConfig(1, TOOLS, cpus=400, timeouts=Timeouts(start=1))) as workers, refusal:
        run(clip, tmp_path / "out.mp4", workers, 1)


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_whose_driver_is_killed_is_resumed_by_the_same_command(clip, undisturbed, tmp_path):
    out, journal = tmp_path / "out.mp4", tmp_path / "out.mp4.longtake"
    address = ray.get_runtime_context().gcs_address
    command = ["-m", "longtake.jobs.upscale", clip.url, "-o", out, "--workers", "1", *FLAGS, "--address", address]
    events, until = journal / "events.jsonl", monotonic() + 60
    with forked.started(*command, cwd=ROOT) as driver:
        while not (events.exists() and "upscale.segment" in events.read_text()):
            assert driver.exitcode is None, "the driver ended before a segment was made"
            assert monotonic() < until
            sleep(0.02)
        driver.kill()
    kept = len(list((journal / "journal" / "segments").glob("*.json")))
    assert 1 <= kept < 6
    assert not out.exists()
    again = forked.run(*command, cwd=ROOT, check=True)
    assert "of 6 segments are finished" in " ".join(again.stdout.split())
    assert packets_of(out) == undisturbed
    made = [json.loads(line).get("segment") for line in events.read_text().splitlines()]
    assert max(segment for segment in made if segment is not None) == 5


# ------------------------------------------------------------------ the command line


def longtake(*arguments):
    return forked.run("-m", "longtake.jobs", "upscale", *arguments, cwd=ROOT)


def test_the_command_upscales_and_reports_when_there_is_nothing_to_do(clip, undisturbed, tmp_path, command):
    arguments = (clip.url, "-o", tmp_path / "out.mp4", "--in-process", *FLAGS)
    plan = command("upscale", *arguments, "--dry-run")
    assert plan.returncode == 0
    for part in (
        f"{2 * WIDTH}x{2 * HEIGHT}",
        "cuts at frames 33",
        "6 of at most 12 frames, 0 of them finished",
        "MiB",
    ):
        assert part in plan.stdout
    assert not list(tmp_path.iterdir())
    assert command("upscale", *arguments).returncode == 0
    assert packets_of(tmp_path / "out.mp4") == undisturbed
    assert "nothing to do" in command("upscale", *arguments).stdout
    refused = command("upscale", *arguments, "--continuity", "warmup=4")
    assert refused.returncode == 2
    assert "continuity was exact, is warmup=4" in " ".join(refused.stderr.split())
    approximate = command("upscale", *arguments, "--continuity", "warmup=4", "--fresh")
    assert "differs from an exact one by" in " ".join(approximate.stdout.split())


def test_the_command_takes_a_model_that_looks_ahead_and_refuses_to_repeat_a_long_history(clip, tmp_path, command):
    out = tmp_path / "out.mp4"
    flags = ("--scale", "4", "--segment-frames", "16", "--in-process", "--upscaler")
    deep = save_tiny_flashvsr(tmp_path / "deep.safetensors", layers=12)
    refused = command("upscale", clip.url, "-o", out, *flags, deep)
    assert refused.returncode == 2
    assert "over 328 frames before every segment" in " ".join(refused.stderr.split())
    file = save_tiny_flashvsr(tmp_path / "flashvsr.safetensors")
    warmed = command("upscale", clip.url, "-o", out, *flags, file, "--continuity", "warmup=8")
    assert warmed.returncode == 0
    assert "After the first segment border, in frames 21-32, the short warm-up differs" in " ".join(
        warmed.stdout.split()
    )
    preview = command("upscale", clip.url, "-o", out, *flags, file, "--continuity", "handoff", "--preview")
    assert preview.returncode == 0
    assert open_footage(str(tmp_path / "out.preview.mp4")).num_frames == 50
    plan = command("upscale", clip.url, "-o", out, *flags, file, "--continuity", "handoff", "--fresh", "--dry-run")
    assert "handoff: 0 frames are processed twice" in " ".join(plan.stdout.split())


def test_a_preview_shows_both_enlargements_side_by_side(clip, tmp_path):
    answer = longtake(clip.url, "-o", tmp_path / "out.mp4", "--preview", "--model", "tiny-upscaler", "--scale", "4")
    assert answer.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.preview.mp4"]
    preview = open_footage(str(tmp_path / "out.preview.mp4"))
    assert (preview.width, preview.height, preview.num_frames) == (8 * WIDTH, 4 * HEIGHT, 50)


def test_impossible_requests_are_refused_before_anything_is_written(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own Ctrl-C stays what it is
    lies = tmp_path / "lies.mp4"
    lies.write_text("this is no film\n" * 100)
    out = tmp_path / "out.mp4"
    for arguments, code, words in (
        ((lies, "-o", out), 1, "lies.mp4"),
        ((clip.url, "-o", clip.url), 2, "the footage itself"),
        ((clip.url, "-o", f"file://{clip.url}"), 2, "the footage itself"),
        ((clip.url, "-o", Path(clip.url).parent / "." / "x" / ".." / Path(clip.url).name), 2, "the footage itself"),
        ((clip.url, f"-o=~/{Path(clip.url).name}"), 2, "with a space"),
        ((clip.url, "-o", tmp_path / "out"), 2, "names no file"),
        ((clip.url, "-o", out, "--continuity", "warm"), 2, "use exact, handoff, or warmup=N"),
        ((clip.url, "-o", out, "--start", "1h"), 2, "holds no frame"),
        ((clip.url, "-o", out, "--codec", "ffv1"), 2, ".mkv"),
        ((clip.url, "-o", out, "--workers", "2"), 2, "one worker, not 2"),
    ):
        with pytest.raises(SystemExit) as refusal:
            main(["upscale", *map(str, arguments), "--in-process", *FLAGS])
        assert (refusal.value.code, words in capsys.readouterr().err) == (code, True)
    assert [path.name for path in tmp_path.iterdir()] == ["lies.mp4"]
