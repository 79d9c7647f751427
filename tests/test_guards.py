"""A value that is not a number, or an overflow, ends the take. Nothing of its chunk is kept; the next run resumes."""

from dataclasses import replace

import pytest
import torch

from longtake.pipeline import acts, film
from longtake.pipeline.errors import NumericsError
from longtake.pipeline.guards import guard
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.models.upscaler import Upscaler
from longtake.pipeline.observe import SILENT
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.tiny_take import MODEL, Recorder, render, take_in

BAD_CHUNK = 2
BAD = {"nan": float("nan"), "inf": float("inf"), "overflow": -3e38}


def spoiled(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


class Fault:
    """Spoils what a network returns in the calls of one chunk."""

    def __init__(self, stage, name, value, stream=None):
        self._owner, self._name, self._call, self.armed = stage, name, getattr(stage, name), False
        self._value, self._stream = value, stream

    def __call__(self, *args, **kwargs):
        result = self._call(*args, **kwargs)
        if not self.armed:
            return result
        if isinstance(result, dict):
            return result | {self._stream: spoiled(result[self._stream], self._value)}
        if isinstance(result, tuple):
            return (spoiled(result[0], self._value), *result[1:])
        return spoiled(result, self._value)

    def event(self, name, **fields):
        """Arm the fault once the chunk before has been encoded."""
        if name == "encode.chunk" and fields["chunk"] == BAD_CHUNK - 1:
            self.armed = True


ONE_CHUNK = "{model: tiny, sampling: {steps: 2}, scenes: [{prompt: a red circle, duration: 1s}]}"
FAULTS = {
    "prompt": ("embed", lambda model: (model.text, "embed"), None),
    "video latents": ("denoise", lambda model: (model.denoiser, "head"), "video"),
    "audio latents": ("denoise", lambda model: (model.denoiser, "head"), "audio"),
    "picture": ("decode", lambda model: (model.video_codec, "decode"), None),
    "sound": ("decode", lambda model: (model.sound_codec, "decode"), None),
}


@pytest.fixture(scope="module")
def undisturbed():
    store = Store("memory://guards-undisturbed")
    render(store)
    return store.get("film.mp4")


@pytest.mark.parametrize(("what", "value"), [*zip(FAULTS, ("nan", "inf", "overflow", "nan", "inf"), strict=True)])
def test_a_bad_value_ends_the_take_and_the_next_run_resumes(what, value, undisturbed, monkeypatch):
    act, where, stream = FAULTS[what]
    store = Store(f"memory://guards-{what.replace(' ', '-')}-{value}")
    fault = Fault(*where(MODEL), BAD[value], stream)
    monkeypatch.setattr(fault._owner, fault._name, fault)
    with pytest.raises(NumericsError, match=f"^{act}: the .*{what.split()[-1]}.*float32") as raised:
        render(store, fault)
    bad = 3 if act == "embed" else BAD_CHUNK  # the prompt of a scene is embedded once
    assert "chunk" in str(raised.value) or act == "embed"
    monkeypatch.undo()
    journal = take_in(store).journal
    assert journal.num_kept("segments") == bad
    assert journal.num_kept("latents") == bad + (act == "decode")
    resumed = Recorder()
    render(store, resumed)
    assert resumed.acted("encode")[0] == bad
    assert store.get("film.mp4") == undisturbed


def test_sound_that_is_not_a_number_is_neither_encoded_nor_published():
    take = take_in(Store("memory://guards-sound"))
    chunk = take.plan.chunks[0]
    frames, sound = acts.decode(take, SILENT)(acts.denoise(take, SILENT)(chunk, acts.embed(take, SILENT)(chunk)))
    bad = replace(sound, pcm=spoiled(sound.pcm, float("nan")))
    encode = acts.encode(take, SILENT)
    with pytest.raises(NumericsError, match=r"^encode: the samples of the sound of chunk 0"):
        encode(frames, bad)
    assert not take.journal.holds("segments", 0)
    segment = replace(encode(frames, sound), sound=bad)
    with pytest.raises(NumericsError, match=r"^publish: the samples of the sound of chunk 0"):
        acts.publish(take, SILENT).stage(segment)


def test_an_upscaler_that_overflows_ends_the_take(monkeypatch):
    model = EmbeddedModel.untrained(TINY)
    board = "{model: tiny, sampling: {steps: 1}, output: {upscale: 2}, scenes: [{prompt: a red circle, duration: 1s}]}"
    take = open_take(plan_film(parse_storyboard(board), model), model, Store("memory://guards-up"), numerics(model))
    push = Upscaler.push
    monkeypatch.setattr(Upscaler, "push", lambda self, *args: spoiled(push(self, *args), float("inf")))
    with pytest.raises(NumericsError, match=r"^upscale: .*picture.*float32"):
        film.render(take)
    assert take.journal.num_kept("segments") == 0


@pytest.mark.parametrize(
    ("degrees", "stream"),
    [(Degrees(ulysses=2), "video"), (Degrees(ring=2), "audio"), (Degrees(cfg=2), "video")],
    ids=str,
)
def test_a_bad_value_on_one_rank_of_two_ends_the_take(degrees, stream):
    models = [EmbeddedModel.untrained(TINY) for _ in range(degrees.ranks)]
    fault = Fault(models[1].denoiser, "head", float("nan"), stream)
    fault.armed = True
    models[1].denoiser.head = fault

    def act(parallel):
        model = models[degrees.rank(parallel.place)]
        plan = plan_film(
            parse_storyboard("{model: tiny, sampling: {steps: 2}, scenes: [{prompt: a red circle, duration: 1s}]}"),
            model,
        )
        take = open_take(plan, model, Store(f"memory://guards-rank-{degrees}-{stream}"), numerics(model))
        with pytest.raises(NumericsError, match=r"^denoise: "):
            acts.denoise(take, SILENT, parallel)(plan.chunks[0], acts.embed(take, SILENT)(plan.chunks[0]))
        return take.journal.holds("latents", 0)

    assert run_threads(act, degrees) == [False, False]


def test_latents_that_an_older_version_kept_are_rendered_again():
    store = Store("memory://guards-older")
    take = take_in(store)
    chunk = take.plan.chunks[0]
    latents = acts.denoise(take, SILENT)(chunk, acts.embed(take, SILENT)(chunk))
    take.journal.keep_latents(replace(latents, video=spoiled(latents.video, float("nan"))))
    assert take.journal.latents(chunk) is None
    recorder = Recorder()
    render(store, recorder)
    assert recorder.acted("denoise")[0] == 0


def test_the_fix_fits_the_precision():
    with pytest.raises(NumericsError, match="--dtype bfloat16"):
        guard("denoise", "video latents", torch.tensor([torch.inf]), "chunk 0", torch.float16)
    with pytest.raises(NumericsError, match="--dtype float32"):
        guard("denoise", "video latents", torch.tensor([2e4]), "chunk 0", torch.bfloat16)
    with pytest.raises(NumericsError, match="a copy whose weights are float32 instead of float16"):
        guard("decode", "frames of the picture", torch.tensor([torch.nan]), "chunk 0", torch.float16)
    guard("decode", "frames of the picture", torch.zeros(0), "chunk 0", None)
