"""An LTX-2 folder is loaded lazily or refused; a film with sound is rendered from it, and resumed."""

import json
import shutil
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.jobs.dry_run import expected_seconds
from longtake.pipeline import film
from longtake.pipeline.adapters.ltx2.model import open_folder
from longtake.pipeline.conditioning.files import read_picture
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.picture import write_png
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.rollouts import Causal, Continuation
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.ltx2 import (
    AUDIO_CHANNELS,
    AUDIO_MEL,
    FORMS,
    save,
    tiny_pipeline,
    tiny_text_encoder,
    tiny_tokenizer,
)
from longtake.pipeline.weights.options import LoadOptions
from tests.inspect.shapes_film import true_film, write_mp4
from tests.tiny_take import KilledError, Recorder

STORYBOARD = parse_storyboard(
    """
model: tiny-ltx2
seed: 3
video: {width: 16, height: 16, fps: 24}
audio: {sample_rate: 8000}
sampling: {steps: 1, guidance: {video: 3, audio: 2, modality: 2, stg: 1, stg_blocks: [1], rescale: 0.5}}
scenes:
  - {prompt: a red circle rests, duration: 2s}
  - {prompt: a blue circle rests, duration: 1s}
""",
    (),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("ltx2")
    causal = {form: save(root / form, form, chunk_latents=2, window=2, sink=1) for form in FORMS}
    return {**causal, "clips": save(root / "clips")}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Options of a node whose cache the tests share."""
    return LoadOptions(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own(folders, tmp_path):
    """A folder of weights that a test may change."""
    return shutil.copytree(folders["clips"], tmp_path / "ltx2")


def render(model, place, observer=SILENT):
    return film.render(open_take(plan_film(STORYBOARD, model), model, Store(str(place)), numerics(model)), observer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, load, folders):
    """An undisturbed take of the film, by the form of its model, and what was rendered."""

    @cache
    def rendered(form):
        place = tmp_path_factory.mktemp("whole")
        return place, render(open_folder(folders[form], load), place)

    return rendered


@pytest.mark.parametrize("form", FORMS)
def test_a_film_with_sound_is_rendered_and_a_killed_one_resumes_bit_for_bit(load, folders, whole, tmp_path, form):
    model = open_folder(folders[form], load)
    place, rendered = whole(form)
    assert (rendered.num_frames, rendered.num_samples) == (72, 24_000)
    with pytest.raises(KilledError):
        render(model, tmp_path / "killed", Recorder(("denoise.chunk", 2)))
    heard = Recorder()
    render(open_folder(folders[form], load), tmp_path / "killed", heard)
    assert heard.acted("denoise") == [3, 4, 5]
    assert (place / "film.mp4").read_bytes() == (tmp_path / "killed" / "film.mp4").read_bytes()


GIVEN = {
    "footage": ("", "video: %s/clip.mp4"),
    "sound": (", file: %s/clip.mp4", "video: %s/clip.mp4, mask: {0s: [0, 0, 0.5, 1]}"),
}


@torch.inference_mode()
@pytest.mark.parametrize(("sound", "scene"), GIVEN.values(), ids=GIVEN)
def test_pictures_footage_and_sound_are_given_and_a_killed_film_resumes_bit_for_bit(
    load, folders, tmp_path, sound, scene
):
    truth = true_film("a red circle bounces fast on a dark background", seconds=2)
    write_mp4(tmp_path / "clip.mp4", truth.frames, truth.sound)
    write_png(torch.from_numpy(truth.frames[4]), tmp_path / "still.png")
    scenes = ["image: %s/still.png, last_image: %s/still.png", f"transition: cut, {scene}"]
    text = "".join(f"\n  - {{prompt: a circle, duration: 17f, {each}}}" for each in scenes)
    sampling = "video: {width: 16, height: 16, fps: 24}\nsampling: {steps: 1, guidance: 1}"
    text = f"model: tiny\naudio: {{sample_rate: 8000{sound}}}\n{sampling}\nscenes: {text}".replace("%s", str(tmp_path))
    spec, model = parse_storyboard(text), open_folder(folders["clips"], load)

    def take(name):
        return open_take(plan_film(spec, model), model, Store(str(tmp_path / name)), numerics(model))

    whole, killed = take("whole"), take("killed")
    film.render(whole)
    with pytest.raises(KilledError):
        film.render(killed, Recorder(("denoise.chunk", 1)))
    film.render(take("killed"))
    assert whole.store.get("film.mp4") == killed.store.get("film.mp4")
    first, picture = whole.journal.latents(whole.plan.chunks[0]), read_picture(str(tmp_path / "still.png"), 16, 16)
    for place in (0, -1):
        assert torch.equal(first.video[place], model.video_codec.encode(picture[None])[0, 0])
    if sound:
        pcm = whole.given.sound(range(len(first.audio) * whole.plan.clock.audio_stride))
        assert torch.equal(model.sound_codec.encode(pcm)[0], first.audio)


@torch.inference_mode()
def test_sound_is_encoded_from_the_spectrogram_that_its_decoder_makes(load, folders):
    """The mel bands of a tone rise where its frequency is, in both channels, at the frames where it sounds."""
    codec = open_folder(folders["clips"], load).sound_codec.loaded
    seen = []
    codec.vae.encode = lambda mels: (
        seen.append(mels)
        or SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: torch.zeros(1, AUDIO_CHANNELS, 25, AUDIO_MEL)))
    )
    stride = codec.stride
    tone = torch.sin(torch.arange(25 * stride) * 2 * torch.pi * 440 / 8000).expand(2, -1).clone()
    tone[:, : 10 * stride] = 0
    codec.encode(tone)
    (mels,) = seen
    assert mels.shape[1:3] == (2, 97)
    assert mels[..., :30, :].max() < mels[..., 50:, :].amax(-1).min()


def test_lost_latents_that_the_decoder_looks_ahead_to_are_rendered_again(load, folders, whole, tmp_path):
    model = open_folder(folders["2.3"], load)
    assert model.video_codec.lookahead == 7
    shutil.copytree(whole("2.3")[0], tmp_path, dirs_exist_ok=True)
    undisturbed = (tmp_path / "film.mp4").read_bytes()
    for data in (*tmp_path.glob("journal/segments/00001*"), *tmp_path.glob("journal/latents/00003-*")):
        data.write_bytes(b"")
    heard = Recorder()
    render(model, tmp_path, heard)
    assert (heard.acted("denoise"), heard.acted("encode")) == ([3], [1])
    assert (tmp_path / "film.mp4").read_bytes() == undisturbed


def test_a_dry_run_reports_the_cost_without_rendering(load, folders):
    for name in ("2.3", "clips"):
        model = open_folder(folders[name], load)
        assert expected_seconds(plan_film(STORYBOARD, model), model) > 0


def test_a_plan_needs_no_weights_and_a_decoder_only_its_own(load, folders):
    model = open_folder(folders["2.3"], load)
    plan = plan_film(STORYBOARD, model)
    assert plan.branches == ("guided", "unguided", "stg", "modality")
    assert model.sound_codec.loaded.stride == 320
    assert model.dtype == torch.float32
    assert "loaded" not in vars(model.denoiser)
    assert not {"_encoder", "_connectors"} & vars(model.text).keys()


def test_the_rollout_follows_from_the_folder(load, folders):
    causal, clips = (open_folder(folders[name], load) for name in ("2.3", "clips"))
    assert (causal.rollout, causal.chunk_latents, causal.kv_plan.window, causal.kv_plan.sink) == (Causal(), 2, 2, 1)
    assert (clips.rollout, clips.chunk_latents) == (Continuation(3), 13)
    assert (causal.defaults.guidance, clips.defaults.guidance.audio) == (1.0, 7)


def test_sizes_and_rates_follow_from_the_networks(load, folders):
    model = open_folder(folders["clips"], load)
    assert model.latent_shapes(32, 16) == {"video": (4, 2, 4), "audio": (4,)}
    clock = model.clock(Fraction(24))
    assert (clock.frames(16), clock.audio_latents(24)) == (121, 25)
    assert model.limits.width.multiple == 8


@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_is_embedded_as_by_the_pipeline(load, folders, form):
    ours = open_folder(folders[form], load).text.embed("a red circle rests")
    pipeline = tiny_pipeline(form, text_encoder=tiny_text_encoder(), tokenizer=tiny_tokenizer())
    states, seen, *_ = pipeline.encode_prompt("a red circle rests", do_classifier_free_guidance=False, device="cpu")
    video, audio, _ = pipeline.connectors(states, seen)
    assert torch.equal(ours, torch.cat((video, audio), dim=-1)[0])


def test_prompts_that_would_be_truncated_are_refused_before_rendering(load, folders):
    text = open_folder(folders["2.0"], load).text
    text.check("circle " * 1023)
    with pytest.raises(SpecError, match="has 1025 tokens, LTX-2 accepts at most 1024"):
        text.check("circle " * 1024)


def test_a_folder_of_another_family_is_refused(load, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(WeightsError, match="is a WanPipeline; use a folder of LTX2Pipeline"):
        open_folder(tmp_path, load)


@pytest.mark.parametrize(("part", "other"), [("vocoder", "NobodysVocoder"), ("text_encoder", "NobodysEncoder")])
def test_a_part_of_an_unknown_kind_is_refused_before_rendering(load, own, part, other):
    index = own / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), part: ["nobody", other]}))
    with pytest.raises(WeightsError, match=f"has the .*{other}.*; use a vocoder of LTX2Vocoder or"):
        open_folder(own, load)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("transformer", {"num_layers": 3}, r"transformer do not fit LTX2VideoTransformer3DModel, of \d+: \d+ missing"),
        ("vocoder", {"hidden_channels": 32}, r"vocoder do not fit LTX2Vocoder, of \d+: .* of another shape"),
        ("audio_vae", {"sample_rate": 0}, r"audio_vae\.sample_rate 0 .*; each must be at least 1"),
        ("connectors", {"caption_channels": [1]}, r"connectors/config\.json is no valid LTX2TextConnectors"),
        ("scheduler", {"shift": "x"}, r"scheduler_config\.json: shift is 'x'; use a number such as 1\.0"),
    ],
)
def test_settings_of_other_weights_are_refused_before_loading(load, own, part, changes, message):
    file = next((own / part).glob("*config.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(WeightsError, match=message):
        open_folder(own, load)


def test_missing_weights_of_a_text_encoder_are_not_filled_at_random(load, own):
    file = own / "text_encoder/model.safetensors"
    tensors = load_file(file)
    lost = next(key for key in tensors if key.endswith("mlp.up_proj.weight"))
    save_file({key: tensor for key, tensor in tensors.items() if key != lost}, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit Gemma3ForConditionalGeneration: 1 missing \(.*up_proj"):
        open_folder(own, load).text.embed("a red circle")
