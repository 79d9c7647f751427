"""A Wan folder is loaded lazily, or refused with the reason; a film is rendered from it, and resumed."""

import json
import shutil
from fractions import Fraction

import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.pipeline import film
from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.rollouts import Causal, Continuation
from longtake.pipeline.sampling_spec import GuidanceSpec
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from longtake.pipeline.weights.options import LoadOptions
from tests.tiny_take import KilledError, Recorder

CHUNKS = 5
STORYBOARD = parse_storyboard(
    """
model: tiny-wan
seed: 3
video: {width: 32, height: 16}
sampling: {steps: 2, guidance: 3}
scenes:
  - {prompt: a red circle, duration: 1.5s}
  - {prompt: a blue circle, duration: 1s}
""",
    (),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("wan")
    return {
        "causal": save(tiny_pipeline("2.1"), root / "causal", chunk_latents=3, window=2, sink=1, sampling={"steps": 4}),
        "5b": save(tiny_pipeline("5b"), root / "5b"),
        "a14b": save(tiny_pipeline("a14b"), root / "a14b"),
    }


@pytest.fixture
def broken(folders, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(folders["causal"], tmp_path / "broken")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Options of a node whose cache the tests share."""
    cache = tmp_path_factory.mktemp("cache")
    return lambda dtype=None: LoadOptions(dtype, cache=cache)


def render(model, place, observer=SILENT):
    return film.render(open_take(plan_film(STORYBOARD, model), model, Store(str(place)), numerics(model)), observer)


@pytest.fixture(scope="module")
def whole_render(load, folders, tmp_path_factory):
    """The folder of an undisturbed take of the causal model, and its film."""
    place = tmp_path_factory.mktemp("whole")
    return place, render(open_folder(folders["causal"], load()), place)


def test_a_film_is_rendered_and_a_killed_one_resumes_bit_for_bit(load, folders, whole_render, tmp_path):
    model = open_folder(folders["causal"], load())
    place, whole = whole_render
    assert (whole.num_frames, whole.num_samples) == (40, 40_000)
    with pytest.raises(KilledError):
        render(model, tmp_path / "killed", Recorder(("denoise.chunk", 2)))
    heard = Recorder()
    render(open_folder(folders["causal"], load()), tmp_path / "killed", heard)
    assert heard.acted("denoise") == [3, 4]
    assert heard.acted("decode") == [2, 3, 4]
    assert (place / "film.mp4").read_bytes() == (tmp_path / "killed" / "film.mp4").read_bytes()


def test_a_plan_needs_no_weights_and_a_decoder_only_its_own(load, folders):
    model = open_folder(folders["causal"], load())
    plan = plan_film(STORYBOARD, model)
    assert len(plan.chunks) == CHUNKS
    assert plan.tokens(plan.chunks[0]) == 3 * 2 * 1 + 512
    assert model.dtype == torch.float32
    assert model.video_codec.left_context == 30
    assert ["loaded" in vars(expert) for expert in model.denoiser._experts] == [False]
    assert "loaded" not in vars(model.video_codec)
    assert not {"_encoder", "_embedders"} & vars(model.text).keys()


def test_the_rollout_follows_from_the_folder(load, folders):
    causal, wan_5b, a14b = (open_folder(folders[name], load()) for name in ("causal", "5b", "a14b"))
    assert (causal.rollout, causal.chunk_latents) == (Causal(), 3)
    assert (causal.kv_plan.window, causal.kv_plan.sink) == (2, 1)
    assert (wan_5b.rollout, wan_5b.chunk_latents) == (Continuation(overlap=5, clean=True), 26)
    assert (a14b.rollout, a14b.chunk_latents) == (Continuation(overlap=5, clean=False), 16)
    assert wan_5b.kv_plan.history(0, 0, 7) == [6]


def test_the_sampling_defaults_follow_from_the_folder(load, folders):
    causal, wan_5b, a14b = (open_folder(folders[name], load()) for name in ("causal", "5b", "a14b"))
    assert (causal.defaults.steps, causal.defaults.shift, causal.defaults.solver) == (4, 3.0, "euler")
    assert (wan_5b.defaults.width, wan_5b.defaults.height, wan_5b.defaults.fps) == (1280, 704, 24)
    assert (wan_5b.defaults.steps, wan_5b.defaults.guidance, wan_5b.defaults.boundary) == (50, 5.0, None)
    assert (a14b.defaults.guidance, a14b.defaults.guidance_2, a14b.defaults.boundary) == (4.0, 3.0, 0.875)


def test_sizes_and_rates_follow_from_the_networks(load, folders):
    causal, wan_5b = (open_folder(folders[name], load()) for name in ("causal", "5b"))
    assert causal.latent_shapes(64, 32) == {"video": (4, 4, 8), "audio": (0,)}
    assert wan_5b.latent_shapes(64, 32) == {"video": (6, 2, 4), "audio": (0,)}
    assert (causal.limits.width.multiple, wan_5b.limits.width.multiple) == (16, 32)
    assert (causal.limits.max_fps, wan_5b.limits.min_fps) == (16, 24)
    assert causal.clock(Fraction(16)).frames(21) == 81


def test_the_dtype_is_as_requested_except_what_diffusers_keeps_in_float32(load, folders):
    model = open_folder(folders["a14b"], load(torch.bfloat16))
    wan = model.denoiser.expert(1).wan
    assert model.dtype == wan.patch_embedding.weight.dtype == torch.bfloat16
    assert wan.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert wan.scale_shift_table.dtype == wan.blocks[0].norm2.weight.dtype == torch.float32
    assert wan.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert model.video_codec.loaded.vae.dtype == torch.float32


def test_a_film_of_bfloat16_weights_is_rendered(load, folders, tmp_path):
    model = open_folder(folders["causal"], load(torch.bfloat16))
    assert render(model, tmp_path).num_frames == 40


def test_the_fingerprint_is_that_of_the_content(load, folders, broken):
    before = open_folder(broken, load()).fingerprint()
    assert before == open_folder(folders["causal"], load()).fingerprint()
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "decoder.conv_in.bias": tensors["decoder.conv_in.bias"] + 1}, file)
    assert open_folder(broken, load()).fingerprint() != before


@pytest.mark.parametrize(
    "edit",
    [{"window": 1}, {"sink": 0}, {"chunk_latents": 2}, {"sampling": {"shift": 5.0}}],
    ids=lambda edit: next(iter(edit)),
)
def test_a_film_is_rendered_again_after_an_edit_of_its_models_mark(load, whole_render, broken, edit):
    file, store = broken / "longtake.json", Store(str(whole_render[0]))
    kept = []
    for mark in ({}, edit):
        file.write_text(json.dumps({**json.loads(file.read_text()), **mark}))
        model = open_folder(broken, load())
        kept.append(open_take(plan_film(STORYBOARD, model), model, store, numerics(model)).journal.num_kept("latents"))
    assert kept == [CHUNKS, 0]


def test_a_folder_of_another_family_is_refused(load, broken):
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "LTXPipeline"}))
    with pytest.raises(WeightsError, match=r"is a LTXPipeline; use a folder of WanPipeline"):
        open_folder(broken, load())


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ({"rollout": "diagonal", "chunk_latents": 3, "window": 2}, "rollout"),
        ({"rollout": "causal", "window": 2}, "chunk_latents"),
        ({"rollout": "causal", "chunk_latents": 3, "window": 2, "sinks": 1}, "sinks"),
        ({"rollout": "causal", "chunk_latents": 0, "window": 2}, "chunk_latents: use a whole number from 1"),
        ({"rollout": "causal", "chunk_latents": 3, "window": -1}, "window: use a whole number from 0"),
        ({"rollout": "causal", "chunk_latents": 3, "window": 2, "sampling": {"stepz": 4}}, "sampling.stepz"),
        ({"rollout": "causal", "chunk_latents": 3, "window": 2, "sampling": {"steps": "x"}}, "sampling.steps: use a"),
    ],
)
def test_an_invalid_mark_is_refused(load, broken, mark, message):
    (broken / "longtake.json").write_text(json.dumps(mark))
    with pytest.raises(WeightsError, match=rf"longtake.json: {message}.*longtake convert"):
        open_folder(broken, load())


def change(file, **changes):
    """Change values in a file of settings; None removes the key."""
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def test_missing_keys_of_a_configuration_get_diffusers_defaults(load, broken, folders):
    change(broken / "transformer/config.json", patch_size=None)
    change(broken / "vae/config.json", scale_factor_spatial=None)
    assert open_folder(broken, load()).limits.width == open_folder(folders["causal"], load()).limits.width


def test_invalid_settings_are_named(load, broken):
    (broken / "tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match=r"tokenizer holds no tokenizer that can be read"):
        open_folder(broken, load()).text.check("a")
    change(broken / "transformer/config.json", num_attention_heads="two")
    with pytest.raises(WeightsError, match=r"transformer/config\.json: num_attention_heads is 'two'; use a number"):
        open_folder(broken, load())
    change(broken / "model_index.json", boundary_ratio=0.9)
    with pytest.raises(WeightsError, match=r"boundary_ratio 0\.9 but no transformer_2"):
        open_folder(broken, load())


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("transformer", {"num_layers": 3}, r"transformer do not fit WanTransformer3DModel, of \d+: \d+ missing"),
        ("vae", {"z_dim": 8}, r"vae do not fit AutoencoderKLWan, of \d+: .* of another shape"),
        ("text_encoder", {"d_ff": 48}, r"text_encoder do not fit UMT5EncoderModel, of \d+: .* of another shape"),
        ("transformer", {"ffn_dim": [1]}, r"transformer/config\.json is no valid WanTransformer3DModel"),
        ("scheduler", {"shift": "x"}, r"scheduler_config\.json: shift is 'x'; use a number such as 1\.0"),
    ],
)
def test_settings_of_other_weights_are_refused_before_loading(load, broken, part, changes, message):
    change(next((broken / part).glob("*config.json")), **changes)
    with pytest.raises(WeightsError, match=message):
        open_folder(broken, load())


def test_missing_and_surplus_tensors_are_named(load, broken):
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["proj_out.bias"]
    save_file({**tensors, "surplus": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match=r"1 missing \(proj_out.bias\), 1 left over \(surplus\)"):
        open_folder(broken, load())


def test_pickles_are_refused_with_the_fix(load, broken):
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r"is a pickle.*`longtake convert"):
        open_folder(broken, load())


def test_weights_in_shards_are_found_by_their_index(load, broken, folders):
    tiny_pipeline("2.1").transformer.save_pretrained(broken / "transformer", max_shard_size="20KB")
    (broken / "transformer" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    assert len(list((broken / "transformer").glob("*.safetensors"))) > 1
    ours = open_folder(broken, load()).denoiser.expert(0).state_dict()
    expected = open_folder(folders["causal"], load()).denoiser.expert(0).state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"modality": 3}, "modality is 3; causal has no attention from one stream to the other that could be left out"),
        (
            {"stg": 1, "stg_blocks": [1, 28]},
            r"stg_blocks names \[28\]; causal has 2 such blocks, use blocks from 0 to 1",
        ),
    ],
)
def test_guidance_that_would_change_nothing_is_refused(load, folders, scales, message):
    sampling = STORYBOARD.sampling.model_copy(update={"guidance": GuidanceSpec(**scales)})
    with pytest.raises(SpecError, match=rf"sampling\.guidance\.{message}"):
        plan_film(STORYBOARD.model_copy(update={"sampling": sampling}), open_folder(folders["causal"], load()))


def test_prompts_that_would_be_truncated_are_refused_before_rendering(load, folders):
    model = open_folder(folders["causal"], load())
    model.text.check("circle " * 511)
    with pytest.raises(SpecError, match="has 513 tokens, Wan accepts at most 512"):
        model.text.check("circle " * 512)
