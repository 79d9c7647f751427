"""Checkpoints and LoRAs as people have them: each is opened with the right values, or refused in one sentence.

Each row is one published packing, made from the keys that its tool writes. Sources: ComfyUI (prefixes, `scaled_fp8`,
`comfy_quant`), kijai's WanVideo_comfy (float8 with and without scales, `diff_m`), city96's GGUF converter, Wan2.1's and
Wan2.2's repositories, Self-Forcing, CausVid, LongLive, Krea, optimum-quanto, bitsandbytes, nunchaku, diffusers and
peft, kohya's sd-scripts and musubi-tuner, LyCORIS, lightx2v, LTX-2's trainer.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

from longtake.pipeline.adapters.convert import ConvertOptions, convert
from longtake.pipeline.adapters.ltx2.convert import NAMING as LTX2_NAMING
from longtake.pipeline.adapters.wan.convert import NAMING, from_diffusers
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.testing.ltx2 import tiny_transformer
from longtake.pipeline.weights.checkpoint import read_checkpoint
from longtake.pipeline.weights.lora import lora_of, merge, read_lora
from longtake.pipeline.weights.peft_config import peft_config
from longtake.pipeline.weights.save import save_shards
from tests.weights.diffusers_folder import save_folder

FLOAT8 = torch.float8_e4m3fn


def tiny(**changes):
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 1, "attention_head_dim": 128, "in_channels": 4, "out_channels": 4, "text_dim": 8,
        "freq_dim": 16, "ffn_dim": 32, "num_layers": 1,
    }  # fmt: skip
    return WanTransformer3DModel(**config | changes)


def original(key):
    """A key of diffusers in Wan's own code."""
    if key.endswith("scale_shift_table"):
        return "head.modulation" if "." not in key else key.replace("scale_shift_table", "modulation")
    layer, _, leaf = key.rpartition(".")
    return f"{from_diffusers(layer)}.{leaf}"


STATE = {key: tensor.detach() for key, tensor in tiny().state_dict().items()}
WAN = {original(key): tensor for key, tensor in STATE.items()}
MATRICES = [key for key in WAN if key.endswith(".weight") and WAN[key].dim() == 2]


def prefixed(prefix, tensors=WAN):
    return {prefix + key: tensor for key, tensor in tensors.items()}


def with_float8(scaled, key_of="{}.scale_weight", dtype=FLOAT8, rows=False):
    """The tensors with 8-bit matrices, and what they stand for."""
    tensors, means = dict(WAN), dict(WAN)
    top = 448.0 if dtype != torch.int8 else 127.0
    for key in MATRICES:
        scale = WAN[key].abs().amax(dim=1) / top if rows else WAN[key].abs().max() / top
        scale = scale if scaled else torch.tensor(1.0)
        values = WAN[key] / (scale[:, None] if rows else scale)
        tensors[key] = (values.round() if dtype == torch.int8 else values).to(dtype)
        means[key] = tensors[key].float() * (scale[:, None] if rows else scale)
        if scaled:
            tensors[key_of.format(key.removesuffix(".weight"))] = scale
    return tensors, means


SCALED, SCALED_MEANS = with_float8(scaled=True)
BARE8, BARE8_MEANS = with_float8(scaled=False)
BARE8_E5, BARE8_E5_MEANS = with_float8(scaled=False, dtype=torch.float8_e5m2)
ROWS, ROWS_MEANS = with_float8(scaled=True, key_of="{}.weight_scale", rows=True)
INT8, INT8_MEANS = with_float8(scaled=True, key_of="{}.weight_scale", dtype=torch.int8, rows=True)
BARE_INT8, _ = with_float8(scaled=False, dtype=torch.int8)
QUANTO = {
    (f"{key}._data" if key in MATRICES else key): tensor for key, tensor in INT8.items() if "weight_scale" not in key
} | {f"{key}._scale": INT8[f"{key.removesuffix('.weight')}.weight_scale"] for key in MATRICES}


def safetensors(tensors, name="in.safetensors", **metadata):
    def make(folder):
        save_file({key: x.clone().contiguous() for key, x in tensors.items()}, folder / name, metadata or None)
        return folder / name

    return make


def pickled(content, name="in.pt"):
    def make(folder):
        torch.save(content, folder / name)
        return folder / name

    return make


def gguf(kind, prefix="", means=None):
    def make(folder):
        writer = GGUFWriter(folder / "in.gguf", "wan")
        for key, tensor in WAN.items():
            values = tensor.numpy()
            matrix = key in MATRICES and values.shape[-1] % 32 == 0
            if values.ndim > 4:
                writer.add_array(f"comfy.gguf.orig_shape.{prefix}{key}", list(values.shape))
                values = values.reshape(values.shape[0], -1)
            if matrix:
                packed = quantize(values, kind)
                means[key] = torch.from_numpy(dequantize(packed, kind).copy())
                writer.add_tensor(prefix + key, packed, raw_dtype=kind)
            else:
                writer.add_tensor(prefix + key, values.astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder / "in.gguf"

    return make


def sharded(folder, *, name="diffusion_pytorch_model"):
    files = save_shards(WAN, folder, shard_bytes=200_000)
    assert len(files) > 1
    (folder / "config.json").write_text(json.dumps({"model_type": "t2v", "dim": 128, "num_heads": 2}))
    return folder / f"{name}.safetensors.index.json"


Q8, Q4, Q5, BF16 = dict(WAN), dict(WAN), dict(WAN), dict(WAN)
SCALED_E5, SCALED_E5_MEANS = with_float8(True, dtype=torch.float8_e5m2)
FSDP = {f"model._fsdp_wrapped_module.{key.replace('blocks.0.', 'blocks.0._checkpoint_wrapped_module.')}": x for key, x
in WAN.items()}  # fmt: skip
ALL_IN_ONE = prefixed("model.diffusion_model.") | {"first_stage_model.encoder.weight": torch.ones(2),
"text_encoders.umt5.weight": torch.ones(2)}  # fmt: skip

OPENED = {
    "Wan2.1's own .pth": (pickled(WAN, "in.pth"), WAN),
    "diffusers' own keys": (safetensors(STATE), WAN),
    "ComfyUI, model.diffusion_model.": (safetensors(prefixed("model.diffusion_model.")), WAN),
    "ComfyUI, diffusion_model.": (safetensors(prefixed("diffusion_model.")), WAN),
    "transformer.": (safetensors(prefixed("transformer.")), WAN),
    "dit.": (safetensors(prefixed("dit.")), WAN),
    "net.": (safetensors(prefixed("net.")), WAN),
    "ema.": (safetensors(prefixed("ema.")), WAN),
    "generator.model.": (safetensors(prefixed("generator.model.")), WAN),
    ".sft": (safetensors(WAN, "in.sft"), WAN),
    "a safetensors file of another name": (safetensors(WAN, "in.ckpt"), WAN),
    "state_dict of a trainer": (pickled({"state_dict": prefixed("model."), "epoch": 3}), WAN),
    "options next to the weights": (pickled({"model": WAN, "args": argparse.Namespace(lr=1e-5)}), WAN),
    "FSDP's wrappers": (pickled({"generator_ema": FSDP}), WAN),
    "an all-in-one file": (safetensors(ALL_IN_ONE), WAN),
    "float8 with scales, ComfyUI": (safetensors(SCALED | {"scaled_fp8": torch.zeros(2).to(FLOAT8)}), SCALED_MEANS),
    "float8 with scale_input": (
        safetensors(SCALED | {f"{key.removesuffix('.weight')}.scale_input": torch.ones(1) for key in MATRICES}),
        SCALED_MEANS,
    ),
    "float8 with scales by row": (safetensors(ROWS), ROWS_MEANS),
    "float8 with scales and a prefix": (safetensors(prefixed("model.diffusion_model.", SCALED)), SCALED_MEANS),
    "mostly float8, e4m3": (safetensors(BARE8), BARE8_MEANS),
    "mostly float8, e5m2": (safetensors(BARE8_E5), BARE8_E5_MEANS),
    "int8 with scales": (safetensors(INT8), INT8_MEANS),
    "optimum-quanto": (safetensors(QUANTO), INT8_MEANS),
    "GGUF, Q8_0": (gguf(GGMLQuantizationType.Q8_0, means=Q8), Q8),
    "GGUF, Q4_0 with a prefix": (gguf(GGMLQuantizationType.Q4_0, "model.diffusion_model.", Q4), Q4),
    "an index of shards": (sharded, WAN),
    "the original folder of shards": (lambda folder: sharded(folder).parent, WAN),
    **{
        f"a pickle with {path}": (pickled(content), WAN)
        for path, content in {
            "model_state_dict": {"model_state_dict": WAN, "epoch": 1},
            "state_dict.generator": {"state_dict": {"dit": WAN, "critic": {"head.weight": torch.ones(2)}}},
            "module.model": {"module": {"model": prefixed("_forward_module.")}, "optimizer": {"state": {0: {}}}},
            "another name": {"weights_of_step_3": WAN},
        }.items()
    },
    "DiffSynth, pipe.dit.": (safetensors(prefixed("pipe.dit.")), WAN),
    "an unknown prefix": (safetensors(prefixed("my_trainer.velocity_model.")), WAN),
    "float8 with scales, e5m2": (safetensors(SCALED_E5), SCALED_E5_MEANS),
    "GGUF, BF16": (gguf(GGMLQuantizationType.BF16, means=BF16), BF16),
    "GGUF, Q5_1": (gguf(GGMLQuantizationType.Q5_1, means=Q5), Q5),
    "patches as a linear layer": (
        safetensors(WAN | {"patch_embedding.weight": WAN["patch_embedding.weight"].flatten(1)}),
        WAN,
    ),
    "mixed dtypes": (
        safetensors({key: x.half() if key in MATRICES else x for key, x in WAN.items()}),
        {key: x.half().float() if key in MATRICES else x for key, x in WAN.items()},
    ),
}


@pytest.mark.parametrize("name", OPENED)
def test_a_published_checkpoint_is_opened_with_the_right_values(name, tmp_path):
    make, wanted = OPENED[name]
    (tmp_path / "in").mkdir()
    said = convert(make(tmp_path / "in"), tmp_path / "out", ConvertOptions())
    found = load_file(tmp_path / "out/transformer/diffusion_pytorch_model.safetensors")
    assert found.keys() == STATE.keys()
    assert all(x.dtype in (torch.float32, torch.bfloat16, torch.float16) for x in found.values())
    for key, tensor in found.items():
        torch.testing.assert_close(tensor.float(), wanted[original(key)].float(), rtol=0, atol=1e-6)
    assert ("other networks were not used" in said) == (name == "an all-in-one file")
    assert "assumed: bidirectional" in said or name == "FSDP's wrappers"


def damaged(change, make=None):
    def made(folder):
        file = (make or safetensors(WAN))(folder)
        file.write_bytes(change(file.read_bytes()))
        return file

    return made


def without_shard(folder):
    index = sharded(folder)
    min(folder.glob("*-of-*")).unlink()
    return index


def without_index(folder):
    sharded(folder).unlink()
    return folder


REFUSED = {
    "an empty file": (damaged(lambda _: b""), "is empty, so it is no"),
    "a login page": (damaged(lambda _: b"<!DOCTYPE html><html>Sign in"), "is a web page, not weights"),
    "a truncated file": (damaged(lambda x: x[:-1000]), "damaged or truncated"),
    "an unknown dtype": (damaged(lambda x: x.replace(b'"F32"', b'"F3Z"', 1)), "damaged or truncated"),
    "a pickle that was cut off": (damaged(lambda x: x[:-1000], pickled(WAN)), "damaged or truncated"),
    "an index without a shard": (without_shard, r"1 of \d shards are missing"),
    "shards without an index": (without_index, "shards without their index"),
    "one shard": (
        lambda folder: sharded(folder) and min(folder.glob("*-of-*")),
        r"is one of \d shards; name their index",
    ),
    "a distributed checkpoint": (
        lambda folder: (folder / "__0_0.distcp").write_bytes(b"x") and folder,
        "distributed checkpoint of PyTorch; make one file",
    ),
    "float8 whose scales are missing in part": (
        safetensors({key: x for key, x in SCALED.items() if not key.endswith("q.scale_weight")}),
        "14 tensors in float8 with scales and 2 whose scales are missing",
    ),
    "a pickle with a critic alone": (pickled({"critic": WAN}), "holds critic; choose one with --state critic"),
    "a teacher alone": (safetensors(prefixed("real_score.")), "holds only real_score; add --state"),
    "a VAE": (
        safetensors({"encoder.conv1.weight": torch.ones(4, 3), "decoder.conv1.weight": torch.ones(4, 4)}),
        "is a VAE, not a denoiser",
    ),
    "a text encoder": (
        safetensors({"shared.weight": torch.ones(8), "encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(4)}),
        "is a text encoder, not a denoiser",
    ),
    "a LoRA": (
        safetensors({"diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.ones(4, 128)}),
        "is a LoRA, not a denoiser",
    ),
    "int8 without scales": (safetensors(BARE_INT8), "int8 without scales, so its values are lost"),
    "bitsandbytes": (
        safetensors(WAN | {"blocks.0.self_attn.q.weight.absmax": torch.ones(4)}),
        "packed as bitsandbytes",
    ),
    "nunchaku": (safetensors(WAN | {"blocks.0.self_attn.q.qweight": torch.ones(4)}), "packed as SVDQuant or GPTQ"),
    "NVFP4": (safetensors(WAN | {"blocks.0.ffn.0.weight_scale_2": torch.ones(1)}), "packed as NVFP4"),
    "a Krea-like file without a state": (
        safetensors(WAN, "krea-realtime-video-14b.safetensors"),
        "its name sounds causal; add --recipe .* or --recipe none",
    ),
    "a CausVid-like pickle without a state": (pickled(prefixed("model."), "causvid.pt"), "add --recipe"),
    "a generator of unknown origin": (pickled({"generator": prefixed("model.")}), "unknown origin; add --recipe"),
    "averaged and last weights side by side": (
        safetensors(prefixed("ema.") | prefixed("net.")),
        r"holds 2 networks; choose one with --state ema or --state net",
    ),
    "Wan2.2's original folder": (
        lambda folder: [(folder / name).mkdir() for name in ("high_noise_model", "low_noise_model")] and folder,
        "holds two experts; convert each",
    ),
    "LTX-2 without a base": (
        safetensors(prefixed("model.diffusion_model.", dict(tiny_transformer("2.0").state_dict()))),
        "name its model with --base, such as Lightricks/LTX-2",
    ),
    "a file that was cut off": (
        lambda folder: Path(folder / "in.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{") and folder /
        "in.safetensors", "damaged or truncated",
    ),
    "a GGUF that was cut off": (
        lambda folder: Path(folder / "in.gguf").write_bytes(b"GGUF\x03\0\0\0") and folder / "in.gguf",
        "cannot be read as GGUF",
    ),
    "several files without an index": (
        lambda folder: save_file(WAN, folder / "a.safetensors") or save_file(WAN, folder / "b.safetensors") or folder,
        "name the one checkpoint or index",
    ),
    "a Wan with further layers": (
        safetensors(WAN | {"vace_blocks.0.before_proj.weight": torch.ones(2)}),
        r"1 left over \(vace_blocks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_that_cannot_be_opened_is_refused_in_one_sentence(name, tmp_path):
    make, message = REFUSED[name]
    (tmp_path / "in").mkdir()
    with pytest.raises(WeightsError, match=message) as raised:
        convert(make(tmp_path / "in"), tmp_path / "out", ConvertOptions())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ2_0"])
def test_block_formats_of_gguf_are_read_in_their_own_shape(kind, tmp_path):
    quantization = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[quantization]
    packed = np.random.default_rng(0).integers(0, 60, (4, 2 * size), dtype=np.uint8)  # no scale overflows
    writer = GGUFWriter(tmp_path / "in.gguf", "wan")
    writer.add_tensor("x.weight", packed, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_checkpoint(tmp_path / "in.gguf").contents["x.weight"]
    assert read.shape == (4, 2 * block)
    assert torch.equal(read, torch.from_numpy(dequantize(packed, quantization)))


def test_a_named_state_recipe_and_expert_answer_what_was_asked(tmp_path):
    save_file(prefixed("ema.") | {f"net.{key}": x + 1 for key, x in WAN.items()}, tmp_path / "krea.safetensors")
    convert(tmp_path / "krea.safetensors", tmp_path / "out", ConvertOptions(recipe="none", state="ema"))
    assert not (tmp_path / "out/longtake.json").exists()
    base = save_folder(tmp_path / "base")
    for part in ("transformer", "transformer_2"):
        tiny().save_pretrained(base / part)
    for shard in (base / "transformer").glob("*-of-*"):
        shard.unlink()
    (base / "transformer/diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match="add --expert high or --expert low"):
        convert(tmp_path / "krea.safetensors", tmp_path / "a14b", ConvertOptions("none", "ema", base))


# ------------------------------------------------------------------ LoRAs

RANK = 4
LAYERS = ["blocks.0.self_attn.q", "blocks.0.cross_attn.o", "blocks.0.ffn.0"]
GENERATOR = torch.Generator().manual_seed(3)
PAIRS = {
    layer: (
        torch.randn(WAN[f"{layer}.weight"].shape[0], RANK, generator=GENERATOR) / 9,
        torch.randn(RANK, WAN[f"{layer}.weight"].shape[1], generator=GENERATOR) / 9,
    )
    for layer in LAYERS
}
OWN = {layer: NAMING.own(f"{layer}.weight").removesuffix(".weight") for layer in LAYERS}


def lora(template, names=None, down="lora_A.weight", up="lora_B.weight", **more):
    """The LoRA's tensors, in one form; `more` are further tensors of each layer."""
    found = {}
    for layer, (b, a) in PAIRS.items():
        name = template.format((names or {}).get(layer, layer))
        found |= {f"{name}.{down}": a, f"{name}.{up}": b}
        found |= {f"{name}.{leaf}": value for leaf, value in more.items()}
    return found


def flat(layers):
    return {layer: name.replace(".", "_") for layer, name in layers.items()}


def merged(factor=1.0):
    return {f"{OWN[layer]}.weight": STATE[f"{OWN[layer]}.weight"] + factor * b @ a for layer, (b, a) in PAIRS.items()}


def dora(transposed=False):
    wanted, magnitudes = {}, {}
    for layer, (b, a) in PAIRS.items():
        changed = STATE[f"{OWN[layer]}.weight"] + b @ a
        dim = 0 if transposed else 1
        norm = changed.norm(dim=dim, keepdim=True)
        magnitudes[layer] = 1.5 * norm
        wanted[f"{OWN[layer]}.weight"] = 1.5 * changed
    return wanted, magnitudes


def with_magnitudes(leaf, template, names=None, *, transposed=False, squeezed=False, **sides):
    _, magnitudes = dora(transposed)
    found = lora(template, names, **sides)
    for layer, magnitude in magnitudes.items():
        name = template.format((names or {}).get(layer, layer))
        found[f"{name}.{leaf}"] = magnitude.flatten() if squeezed else magnitude
    return found


KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight"}
SAME = dict(zip(LAYERS, LAYERS, strict=True))
DIFF = {
    "diffusion_model.blocks.0.self_attn.q.diff": torch.full((128, 128), 0.1),
    "diffusion_model.blocks.0.self_attn.q.diff_b": torch.full((128,), 0.2),
    "diffusion_model.blocks.0.norm3.diff": torch.full((128,), 0.3),
    "diffusion_model.blocks.0.diff_m": torch.full((1, 6, 128), 0.4),
    "diffusion_model.head.diff_m": torch.full((1, 2, 128), 0.5),
    "diffusion_model.patch_embedding.diff": torch.full((128, 4, 1, 2, 2), 0.6),
}
DIFF_WANTED = {
    "blocks.0.attn1.to_q.weight": 0.1,
    "blocks.0.attn1.to_q.bias": 0.2,
    "blocks.0.norm2.weight": 0.3,
    "blocks.0.scale_shift_table": 0.4,
    "scale_shift_table": 0.5,
    "patch_embedding.weight": 0.6,
}
I2V_KEYS = {
    "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.ones(4, 128),
    "diffusion_model.blocks.0.cross_attn.k_img.lora_up.weight": torch.ones(128, 4),
}

LORAS = {
    "diffusers": (lora("transformer.{}", OWN), merged()),
    "diffusers, original names": (lora("transformer.{}"), merged()),
    "peft": (lora("base_model.model.{}", OWN), merged()),
    "peft with an adapter's name": (
        lora("base_model.model.{}", OWN, down="lora_A.default.weight", up="lora_B.default.weight"),
        merged(),
    ),
    "node graphs": (lora("diffusion_model.{}"), merged()),
    "node graphs, lora_down": (lora("diffusion_model.{}", **KOHYA), merged()),
    "model.diffusion_model.": (lora("model.diffusion_model.{}", **KOHYA), merged()),
    "bare names": (lora("{}", **KOHYA), merged()),
    "kohya": (lora("lora_unet_{}", flat(SAME), **KOHYA), merged()),
    "kohya with alpha": (lora("lora_unet_{}", flat(SAME), **KOHYA, alpha=torch.tensor(2.0)), merged(0.5)),
    "musubi with diffusers' names": (lora("lora_unet_{}", flat(OWN), **KOHYA), merged()),
    "alpha in node graphs' form": (lora("diffusion_model.{}", **KOHYA, alpha=torch.tensor(8.0)), merged(2.0)),
    "older diffusers": (lora("transformer.{}", OWN, down="lora.down.weight", up="lora.up.weight"), merged()),
    "DoRA, kohya": (with_magnitudes("dora_scale", "lora_unet_{}", flat(SAME), **KOHYA), dora()[0]),
    "DoRA by column, LyCORIS": (
        with_magnitudes("dora_scale", "lora_unet_{}", flat(SAME), transposed=True, **KOHYA),
        dora(transposed=True)[0],
    ),
    "DoRA, peft": (
        with_magnitudes("lora_magnitude_vector", "base_model.model.{}", OWN, squeezed=True),
        dora()[0],
    ),
    "DiffSynth, pipe.dit.": (lora("pipe.dit.{}", down="lora_A.default.weight", up="lora_B.default.weight"), merged()),
    "peft with a dotted adapter's name": (
        lora("transformer.{}", OWN, down="lora_A.my-style.v1.weight", up="lora_B.my-style.v1.weight"),
        merged(),
    ),
    "LyCORIS, as LoRA": (lora("lycoris_{}", flat(SAME), **KOHYA), merged()),
    "alpha of its own for each layer": (
        lora("diffusion_model.{}", **KOHYA, alpha=torch.tensor(4.0))
        | {"diffusion_model.blocks.0.ffn.0.alpha": torch.tensor([8.0])},
        merged() | {"blocks.0.ffn.net.0.proj.weight": merged(2.0)["blocks.0.ffn.net.0.proj.weight"]},
    ),
    "LoCon, a convolution": (
        {
            "lora_unet_patch_embedding.lora_down.weight": torch.full((2, 4, 1, 2, 2), 0.1),
            "lora_unet_patch_embedding.lora_up.weight": torch.full((128, 2, 1, 1, 1), 0.1),
        },
        {"patch_embedding.weight": STATE["patch_embedding.weight"] + 0.02},
    ),
    "full differences": (DIFF, {key: STATE[key] + value for key, value in DIFF_WANTED.items()}),
    "I2V keys on a T2V base": (lora("diffusion_model.{}", **KOHYA) | I2V_KEYS, merged()),
    "text encoder keys": (
        lora("lora_unet_{}", flat(SAME), **KOHYA) | {"lora_te1_layer_0_q.lora_down.weight": torch.ones(4, 4)},
        merged(),
    ),
}  # fmt: skip
LAYOUT = {key: tuple(x.shape) for key, x in STATE.items()}


@pytest.mark.parametrize("name", LORAS)
def test_a_published_lora_changes_the_weights_as_it_should(name, tmp_path):
    tensors, wanted = LORAS[name]
    save_file({key: x.clone().contiguous() for key, x in tensors.items()}, tmp_path / "lora.safetensors")
    read = read_lora(tmp_path / "lora.safetensors", LAYOUT, NAMING)
    state = dict(STATE)
    merge(state, read)
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, wanted.get(key, STATE[key]), rtol=0, atol=1e-6)
    said = read.describe()
    assert ("no such layers (diffusion_model.blocks.0.cross_attn.k_img" in said) == (name == "I2V keys on a T2V base")
    assert ("text encoder are not used" in said) == (name == "text encoder keys")


ALPHAS = {
    "one for all layers": ({"lora_alpha": 2}, merged(0.5)),
    "one for a layer": (
        {"lora_alpha": 4, "alpha_pattern": {"attn1.to_q": 8}},
        merged() | {"blocks.0.attn1.to_q.weight": merged(2.0)["blocks.0.attn1.to_q.weight"]},
    ),
    "rsLoRA": ({"lora_alpha": 2, "use_rslora": True}, merged(2 / RANK**0.5)),
}


@pytest.mark.parametrize("name", ALPHAS)
@pytest.mark.parametrize("place", ["metadata", "next to it"])
def test_alpha_is_read_where_diffusers_and_peft_write_it(name, place, tmp_path):
    config, wanted = ALPHAS[name]
    file, metadata = tmp_path / "adapter_model.safetensors", {}
    if place == "metadata":
        metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})}
    else:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK} | config))
    save_file({key: x.contiguous() for key, x in lora("transformer.{}", OWN).items()}, file, metadata)
    state = dict(STATE)
    merge(state, read_lora(file, LAYOUT, NAMING, config=peft_config(str(file))))
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, wanted.get(key, STATE[key]), rtol=0, atol=1e-6)


def test_a_lora_in_a_pickle_is_found_below_any_key(tmp_path):
    torch.save({"lora": {"state_dict": lora("{}", **KOHYA)}, "step": 3}, tmp_path / "lora.pt")
    assert len(read_lora(tmp_path / "lora.pt", LAYOUT, NAMING).changes) == 3


Q = "diffusion_model.blocks.0.self_attn.q"
NOT_LORAS = {
    "ranks that differ": (
        {f"{Q}.lora_A.weight": torch.ones(8, 128), f"{Q}.lora_B.weight": torch.ones(128, 4)},
        r"the ranks of blocks\.0\.attn1\.to_q are 8 \(down\) and 4 \(up\)",
    ),
    "values that are not numbers": (
        {f"{Q}.lora_A.weight": torch.full((4, 128), torch.nan), f"{Q}.lora_B.weight": torch.ones(128, 4)},
        "values in .* that are not numbers",
    ),
    "integers": (
        {f"{Q}.lora_A.weight": torch.ones(4, 128, dtype=torch.int8), f"{Q}.lora_B.weight": torch.ones(128, 4)},
        "as int8, an unknown packing",
    ),
    "alpha of 0": (lora("diffusion_model.{}", **KOHYA, alpha=torch.tensor(0.0)), "has alpha 0 for"),
    "two adapters": (
        lora("{}", down="lora_A.a.weight", up="lora_B.a.weight")
        | lora("{}", down="lora_A.b.weight", up="lora_B.b.weight"),
        "changes .* twice .*several LoRAs",
    ),
    "one layer in two namings": (lora("diffusion_model.{}") | lora("transformer.{}", OWN), "twice"),
    "a checkpoint with a prefix": (prefixed("model.diffusion_model."), "is a whole checkpoint .*longtake convert"),
    "a text encoder's LoRA": (
        {"lora_te1_layers_0_q.lora_down.weight": torch.ones(4, 4)},
        "changes a text encoder alone",
    ),
    "LoCon with a core": ({f"{Q}.lora_mid.weight": torch.ones(2, 2)}, "is a LoCon with a core"),
    "LoKr": ({"lora_unet_blocks_0_ffn_0.lokr_w1": torch.ones(2, 2)}, "is a LoKr"),
    "LoHa": ({"lora_unet_blocks_0_ffn_0.hada_w1_a": torch.ones(2, 2)}, "is a LoHa"),
    "another family": (
        {
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 64),
            "transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(64, 4),
        },
        "LoRA of another model",
    ),
    "another size": (
        {
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 256),
            "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(256, 4),
        },
        "use a LoRA of this model",
    ),
    "a half": ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 128)}, "has no lora_up"),
    "a checkpoint": (WAN, "which is no LoRA"),
    "a text encoder's": ({"lora_te_layer_0.lora_down.weight": torch.ones(4, 4)}, "which is no LoRA"),
}


@pytest.mark.parametrize("name", NOT_LORAS)
def test_a_file_that_is_no_lora_of_the_model_is_refused_in_one_sentence(name):
    tensors, message = NOT_LORAS[name]
    with pytest.raises(WeightsError, match=message) as raised:
        lora_of(tensors, LAYOUT, NAMING)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
def test_a_lora_of_ltx2_is_read_in_both_namings(prefix):
    layout = {key: tuple(x.shape) for key, x in tiny_transformer("2.0").state_dict().items()}
    layer = "audio_adaln_single.linear"
    out, width = layout["audio_time_embed.linear.weight"]
    read = lora_of(
        {f"{prefix}{layer}.lora_A.weight": torch.ones(2, width), f"{prefix}{layer}.lora_B.weight": torch.ones(out, 2)},
        layout,
        LTX2_NAMING,
    )
    assert read.changes.keys() == {"audio_time_embed.linear.weight"}


def test_the_table_has_at_least_forty_rows():
    assert len(OPENED) + len(REFUSED) + len(LORAS) + len(NOT_LORAS) >= 40
