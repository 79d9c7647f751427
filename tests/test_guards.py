"""A value that is not a number, or an overflow, ends the take. Nothing of its chunk is kept; the next run resumes."""

import wave
from dataclasses import replace

import pytest
import torch
from PIL import Image

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
from longtake.pipeline.spec import located, parse_storyboard
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
    fault.armed = act == "embed"
    monkeypatch.setattr(fault._owner, fault._name, fault)
    with pytest.raises(NumericsError, match=f"^{act}: the .*{what.split()[-1]}.*float32") as raised:
        render(store, fault)
    bad = 0 if act == "embed" else BAD_CHUNK  # prompts are embedded before the first chunk
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


def test_an_upscaler_that_overflows_ends_the_take_and_the_next_run_resumes(monkeypatch):
    model, push = EmbeddedModel.untrained(TINY), Upscaler.push
    board = (
        "{model: tiny, sampling: {steps: 1}, video: {width: 32, height: 32},"
        " output: {upscale: 2, upscaler: tiny-upscaler, hls: false},"
        " scenes: [{prompt: a red circle, duration: 2s}]}"
    )

    class SpoilsTheSecondChunk:
        def event(self, name, **fields):
            if name == "encode.chunk":
                monkeypatch.setattr(Upscaler, "push", lambda self, *args: spoiled(push(self, *args), float("inf")))

    def take(name):
        return open_take(plan_film(parse_storyboard(board), model), model, Store(f"memory://{name}"), numerics(model))

    whole, stopped = take("guards-upscaled"), take("guards-up")
    film.render(whole)
    with pytest.raises(NumericsError, match=r"^upscale: .*picture.*float32"):
        film.render(stopped, SpoilsTheSecondChunk())
    assert stopped.journal.num_kept("segments") == 1
    monkeypatch.undo()
    resumed = Recorder()
    film.render(take("guards-up"), resumed)
    assert resumed.acted("encode") == [1]
    assert stopped.store.get("film.mp4") == whole.store.get("film.mp4")


@pytest.mark.parametrize(
    ("codec", "given"), [("video_codec", "scenes[0].image=still.png"), ("sound_codec", "audio.file=tone.wav")]
)
def test_latents_of_an_image_or_a_sound_that_overflow_end_the_take(codec, given, tmp_path, monkeypatch):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "still.png")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as tone:
        tone.setparams((1, 2, 16_000, 0, "NONE", ""))
        tone.writeframes(bytes(2 * 16_000))
    model = EmbeddedModel.untrained(TINY)
    storyboard = located(parse_storyboard(ONE_CHUNK, (given,)), f"{tmp_path}/film.yaml")
    network = getattr(model, codec)
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda *args: spoiled(encode(*args), float("nan")))

    def run():
        film.render(open_take(plan_film(storyboard, model), model, Store(str(tmp_path / "take")), numerics(model)))

    with pytest.raises(NumericsError, match=r"^embed: the given (video|audio) latents of .*not numbers"):
        run()
    assert not list((tmp_path / "take").rglob("*.latents"))


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


@pytest.mark.parametrize(("stream", "value"), [("video", "inf"), ("audio", "nan"), ("audio", "overflow")])
def test_two_ranks_resume_from_the_last_good_chunk_after_a_bad_value_on_one(stream, value):
    degrees, board = Degrees(ulysses=2), ONE_CHUNK.replace("1s", "2s")

    def rank(name, spoils):
        def act(parallel):
            model, number = EmbeddedModel.untrained(TINY), degrees.rank(parallel.place)
            plan = plan_film(parse_storyboard(board), model)
            take = open_take(
                plan, model, Store(f"memory://guards-two-{stream}-{value}-{name}-{number}"), numerics(model)
            )
            embed, denoise = acts.embed(take, SILENT), acts.denoise(take, SILENT, parallel)
            fault = Fault(model.denoiser, "head", BAD[value], stream)
            model.denoiser.head = fault
            for chunk in plan.chunks:
                fault.armed = spoils and number == 1 and chunk.index == 1
                if take.journal.holds("latents", chunk.index):
                    continue
                if spoils and chunk.index == 1:
                    with pytest.raises(NumericsError, match=r"^denoise: the \w+ latents of chunk 1 .*lower guidance"):
                        denoise(chunk, embed(chunk))
                else:
                    take.journal.keep_latents(denoise(chunk, embed(chunk)))
            return take.journal

        return act

    whole = run_threads(rank("whole", False), degrees)
    stopped = run_threads(rank("spoiled", True), degrees)
    assert [journal.num_kept("latents") for journal in stopped] == [1, 1]
    resumed = run_threads(rank("spoiled", False), degrees)
    chunks = plan_film(parse_storyboard(board), EmbeddedModel.untrained(TINY)).chunks
    for chunk in chunks:
        for one, other in zip(whole, resumed, strict=True):
            assert torch.equal(one.latents(chunk).video, other.latents(chunk).video)
            assert torch.equal(one.latents(chunk).audio, other.latents(chunk).audio)


@pytest.mark.parametrize(
    "what", ["tokens of the prompt", "video latents", "frames of the picture", "samples of the sound"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e7, -1e7])
def test_every_kind_of_bad_value_is_refused_wherever_it_is(what, value):
    for place in (0, 7):
        values = torch.zeros(8)
        values[place] = value
        with pytest.raises(NumericsError, match=f"^decode: the {what} of chunk 0 hold values"):
            guard("decode", what, values, "chunk 0", torch.float32)


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
