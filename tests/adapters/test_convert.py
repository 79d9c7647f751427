"""Published checkpoints are converted completely or refused; the result computes the same."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file

from longtake.pipeline.adapters.convert import ConvertOptions, convert
from longtake.pipeline.adapters.presets import RECIPES
from longtake.pipeline.adapters.wan.convert import NAMING, convert_wan, infer_config, is_wan, to_diffusers
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.checkpoint import unwrap
from longtake.pipeline.weights.lora import lora_of, merge
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.save import save_shards
from longtake.pipeline.weights.tensors import fill, without_weights
from tests.adapters.flashvsr.test_weights import Evil, publish
from tests.adapters.flashvsr.tiny import tiny_flashvsr
from tests.weights.diffusers_folder import save_folder

LAYOUTS = sorted(Path("tests/layouts").glob("wan2_[12]_[ti]*.json"))

NAMES = {
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2.": "norm3.",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}


def original(key):
    """The name in Wan's own code of a diffusers key: the inverse of `to_diffusers`, written independently."""
    if key == "scale_shift_table":
        return "head.modulation"
    if key.endswith("scale_shift_table"):
        return key.replace("scale_shift_table", "modulation")
    for theirs, ours in NAMES.items():
        key = key.replace(theirs, ours)
    return key


def tiny(**changes):
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 1, "attention_head_dim": 128, "in_channels": 4, "out_channels": 4, "text_dim": 8,
        "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
    }  # fmt: skip
    return WanTransformer3DModel(**config | changes).eval()


def published(model, wrap="model."):
    """The tensors of a model as Self-Forcing publishes them."""
    return {wrap + original(key): tensor.clone() for key, tensor in model.state_dict().items()}


def forward(model):
    torch.manual_seed(1)
    x, text = torch.randn(1, model.config.in_channels, 2, 4, 6), torch.randn(1, 3, 8)
    image = torch.randn(1, 2, model.config.image_dim) if model.config.image_dim else None
    with torch.inference_mode():
        return model(x, torch.tensor([500]), text, image, return_dict=False)[0]


def loaded(folder, load=None):
    config = json.loads((folder / "transformer/config.json").read_text())
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    fill(model, folder / "transformer", load or LoadOptions())
    model.rope = WanTransformer3DModel.from_config(config).rope  # its table is not a weight
    # The alignment of mapped tensors depends on the file, which may change the last bit of matrix products.
    model.load_state_dict({key: tensor.clone() for key, tensor in model.state_dict().items()}, assign=True)
    return model


@pytest.mark.parametrize(
    ("state", "recipe", "wrap"),
    [
        ("generator_ema", "self-forcing", "model."),
        ("generator", "causvid", "model._fsdp_wrapped_module."),
        ("generator", "longlive", "model._orig_mod."),
    ],
)
def test_a_causal_checkpoint_becomes_a_folder_that_computes_the_same(tmp_path, state, recipe, wrap):
    model = tiny()
    torch.save({state: published(model, wrap), "step": 600}, tmp_path / "in.pt")
    named = None if state == "generator_ema" else recipe
    assert recipe in convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions(recipe=named))
    assert torch.equal(forward(loaded(tmp_path / "out")), forward(model))
    mark = json.loads((tmp_path / "out/longtake.json").read_text())
    assert mark == RECIPES[recipe].mark()
    assert len(mark["sampling"]["schedule"]) == mark["sampling"]["steps"]
    assert not list(tmp_path.glob("*.part"))


def test_averaged_weights_are_preferred_and_others_chosen_by_name(tmp_path):
    model, other = tiny(), tiny(num_layers=1)
    torch.save({"generator": published(other), "generator_ema": published(model)}, tmp_path / "in.pt")
    convert(tmp_path / "in.pt", tmp_path / "ema", ConvertOptions())
    convert(tmp_path / "in.pt", tmp_path / "last", ConvertOptions("self-forcing", state="generator"))
    assert torch.equal(forward(loaded(tmp_path / "ema")), forward(model))
    assert torch.equal(forward(loaded(tmp_path / "last")), forward(other))


def test_a_bidirectional_checkpoint_is_converted_without_a_mark(tmp_path):
    model = tiny(image_dim=16, added_kv_proj_dim=128, in_channels=9)
    torch.save(published(model, ""), tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out", ConvertOptions())
    assert torch.equal(forward(loaded(tmp_path / "out")), forward(model))
    assert not (tmp_path / "out/longtake.json").exists()


def test_a_merged_lora_equals_one_that_runs_in_parallel(tmp_path):
    model, generator = tiny(), torch.Generator().manual_seed(2)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and "blocks" in name]
    lora, merged = {}, model.state_dict()
    for name in layers:
        up, down = model.get_submodule(name).weight.shape
        b, a = torch.randn(up, 4, generator=generator) / 50, torch.randn(4, down, generator=generator) / 50
        key = f"base_model.model.{original(name + '.weight').removesuffix('.weight')}"
        lora |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + 2 * b @ a
    torch.save({"generator": published(model)}, tmp_path / "base.pt")
    torch.save({"generator_lora": lora}, tmp_path / "lora.pt")
    convert(tmp_path / "base.pt", tmp_path / "out", ConvertOptions(lora=tmp_path / "lora.pt", lora_alpha=8))
    before = forward(model)
    model.load_state_dict(merged)
    out = forward(loaded(tmp_path / "out"))
    assert (out - forward(model)).abs().max() < 1e-5
    assert (out - before).abs().max() > 1e-3
    assert json.loads((tmp_path / "out/longtake.json").read_text())["sink"] == 1, "LongLive's"


def test_a_lora_without_alpha_adds_its_product():
    tensors = {"blocks.0.attn1.to_q.weight": torch.zeros(2, 2)}
    lora = {"a.lora_A.default.weight": torch.ones(1, 2), "a.lora_B.default.weight": torch.ones(2, 1)}
    renamed = {key.replace("a.", "blocks.0.self_attn.q.", 1): x for key, x in lora.items()}
    merge(tensors, lora_of(renamed, {key: x.shape for key, x in tensors.items()}, NAMING))
    assert torch.equal(tensors["blocks.0.attn1.to_q.weight"], torch.ones(2, 2))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"blocks.0.self_attn.q.lora_A.weight": (4, 128)}, r"incomplete: blocks.0.attn1.to_q has no lora_up"),
        ({"blocks.9.self_attn.q.diff_b": (128,)}, "no such layer"),
        ({"blocks.0.self_attn.q.diff_b": (64,)}, "use a LoRA of this model"),
        ({"blocks.0.self_attn.q.bias": (4,)}, "which is no LoRA"),
    ],
)
def test_a_lora_of_another_model_is_refused(lora, message):
    tensors = {key: tensor.clone() for key, tensor in tiny().state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        lora_of(
            {key: torch.ones(shape) for key, shape in lora.items()},
            {key: x.shape for key, x in tensors.items()},
            NAMING,
        )


@pytest.mark.parametrize("file", LAYOUTS, ids=lambda file: file.stem)
def test_every_key_of_a_published_layout_is_converted(file):
    layout = json.loads(file.read_text())
    blocks = range(layout["config"]["num_layers"])
    read = {key: shape for key, shape in layout["tensors"].items() if "norm_added_q" not in key}
    unread = [key.replace("*", str(n)) for key in layout["tensors"].keys() - read.keys() for n in blocks]
    keys = {key.replace("*", str(n)): shape for key, shape in read.items() for n in blocks}
    with torch.device("meta"):
        checkpoint = {f"model.{original(key)}": torch.empty(shape) for key, shape in keys.items()}
        assert len(checkpoint) + len(unread) == layout["num_tensors"]
        tensors = unwrap(checkpoint)
        ignored = {key: torch.empty(1) for key in unread}  # diffusers' folders carry them, and its models ignore them
        theirs = convert_wan_transformer_to_diffusers(dict(tensors))
        config, converted = convert_wan(tensors | ignored)
    assert {key: list(tensor.shape) for key, tensor in converted.items()} == keys
    assert converted.keys() == theirs.keys()
    inferred = {key: value for key, value in config.items() if value is not None}
    assert {key: inferred[key] for key in layout["config"] if key in inferred} == {
        key: value for key, value in layout["config"].items() if key in inferred
    }
    assert set(inferred) - {"_class_name"} <= set(layout["config"]), "nothing is assumed that is not published"


def test_keys_of_diffusers_are_unchanged():
    keys = tiny().state_dict().keys()
    assert [to_diffusers(key) for key in keys] == list(keys)
    assert is_wan(keys)
    assert not is_wan({"encoder.conv1.weight"})


def test_missing_and_unknown_keys_are_named(tmp_path):
    tensors = published(tiny())
    del tensors["model.blocks.1.ffn.0.bias"]
    tensors["model.blocks.1.extra.weight"] = torch.ones(1)
    torch.save({"generator_ema": tensors}, tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=r"1 missing \(blocks.1.ffn.net.0.proj.bias\), 1 left over \(blocks.1.extra"):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions())
    assert list(tmp_path.iterdir()) == [tmp_path / "in.pt"]
    with pytest.raises(WeightsError, match=r"not a complete Wan: it has no 'proj_out\.weight'"):
        infer_config({"patch_embedding.weight": torch.ones(128, 4, 1, 2, 2)})


def test_the_base_provides_other_parts_and_configuration(tmp_path):
    model, base = tiny(attention_head_dim=16, num_attention_heads=2), save_folder(tmp_path / "base")
    for file in (base / "transformer").iterdir():
        file.unlink()
    model.save_pretrained(base / "transformer")
    torch.save({"generator_ema": published(model)}, tmp_path / "in.pt")
    convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions(base=base))
    assert torch.equal(forward(loaded(tmp_path / "out")), forward(model))
    found = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert found == {
        *(
            "model_index.json",
            "longtake.json",
            "README.md",
            "tokenizer/spiece.model",
            "scheduler/scheduler_config.json",
        ),
        *("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"),
    }
    assert (base / "tokenizer/spiece.model").samefile(tmp_path / "out/tokenizer/spiece.model"), "linked"


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"generator_ema": {"model.a": Evil(tmp_path / "evil")}}, tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=r"in\.pt holds more than tensors \(its other contents may run code\)"):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions())
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_any_named_tensors_become_one_safetensors_file(tmp_path, suffix):
    tensors = {"encoder.weight": torch.randn(3, 4), "encoder.bias": torch.randn(3)}
    if suffix == ".bin":
        torch.save(tensors, tmp_path / "in.bin")
    else:
        save_shards(tensors, tmp_path)[0].rename(tmp_path / "in.safetensors")
    convert(tmp_path / f"in{suffix}", tmp_path / "out.safetensors", ConvertOptions(dtype=torch.bfloat16))
    read = load_file(tmp_path / "out.safetensors")
    assert {key: tensor.to(torch.bfloat16).tolist() for key, tensor in tensors.items()} == {
        key: tensor.tolist() for key, tensor in read.items()
    }


def test_flashvsrs_folder_is_converted_by_the_same_command(tmp_path):
    folder = publish(tmp_path / "FlashVSR-v1", tiny_flashvsr("v1"))
    with pytest.raises(WeightsError, match=r"tensors of .* do not fit FlashVSR"):
        convert(folder, tmp_path / "out.safetensors", ConvertOptions())
    with pytest.raises(WeightsError, match=r"one file: end OUT in \.safetensors"):
        convert(folder, tmp_path / "out", ConvertOptions())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"generator": {"model.blocks.0.self_attn.q.weight": torch.ones(2, 2)}}, {}, "add --recipe self-forcing or"),
        ({"step": 3}, {}, "holds no named tensors"),
        ({"step": 3}, {"state": "ema"}, "holds no 'ema'; it holds step"),
        ({"a": torch.ones(1)}, {}, r"end OUT in \.safetensors"),
        ([torch.ones(1)], {}, "holds a list"),
        ({"generator": {"model.blocks.0.self_attn.q.weight": torch.ones(2)}}, {"recipe": "x"}, "--recipe is x; use"),
        ({"a": torch.ones(1)}, {"lora_alpha": 0.0}, "--lora-alpha is 0, which merges nothing; use a positive value"),
    ],
)
def test_an_unconvertible_checkpoint_is_refused_with_the_fix(tmp_path, content, options, message):
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions(**options))
    assert not (tmp_path / "out").exists()


def test_an_existing_out_and_a_missing_checkpoint_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="exists and is not overwritten"):
        convert(tmp_path / "in.pt", tmp_path.parent, ConvertOptions())
    with pytest.raises(WeightsError, match=r"in\.pt does not exist; name a checkpoint"):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no safetensors, GGUF or PyTorch file; fetch it again"),
        (b"hello", r"is no safetensors, GGUF or PyTorch file; fetch it again"),
        (b"PK\x03\x04 cut short", r"is damaged or truncated \(\w+Error.*\); fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", r"a pointer of Git LFS.*`git lfs pull`"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused_with_the_fix(tmp_path, content, message):
    (tmp_path / "in.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions())


def test_a_base_or_a_lora_of_another_model_is_refused_before_writing(tmp_path):
    torch.save({"generator_ema": published(tiny())}, tmp_path / "in.pt")
    torch.save({"generator_lora": {}}, tmp_path / "lora.pt")
    base = save_folder(tmp_path / "base")
    for options, message in (
        ({"lora": tmp_path / "lora.pt"}, r"lora\.pt holds no named tensors"),
        ({"base": base}, "base holds a None, but the checkpoint is a Wan; name a folder of Wan"),
    ):
        with pytest.raises(WeightsError, match=message):
            convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions(**options))
    (base / "transformer/config.json").unlink()
    with pytest.raises(WeightsError, match=r"transformer/config\.json cannot be read"):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions(base=base))
    assert {place.name for place in tmp_path.iterdir()} == {"in.pt", "lora.pt", "base"}


def test_a_checkpoint_of_unknown_heads_needs_a_base(tmp_path):
    torch.save({"generator_ema": published(tiny(attention_head_dim=24))}, tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=r"is 24 wide, not a multiple of 128; name its model with --base MODEL"):
        convert(tmp_path / "in.pt", tmp_path / "out", ConvertOptions())


@pytest.mark.parametrize("tensors", [{"a": torch.ones(1)}, {"generator_ema": published(tiny())}])
def test_an_unwritable_out_is_named(tmp_path, tensors):
    torch.save(tensors, tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=r"in\.pt/.*cannot be written"):
        convert(tmp_path / "in.pt", tmp_path / "in.pt/out.safetensors", ConvertOptions())


def test_large_parts_are_written_in_shards_and_read_as_one(tmp_path):
    model = tiny()
    files = save_shards(model.state_dict(), tmp_path, shard_bytes=200_000)
    assert len(files) > 2
    assert all(file.stat().st_size < 500_000 for file in files)
    again = without_weights(tiny(num_layers=2))
    fill(again, tmp_path, LoadOptions())
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
