"""A folder in diffusers' format with random tensors, for tests of files only."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

INDEX = {
    "_class_name": "NobodysPipeline",
    "_diffusers_version": "0.42.0",
    "scheduler": ["diffusers", "Nobody"],
    "tokenizer": ["transformers", "Nobody"],
    "transformer": ["diffusers", "Nobody"],
    "image_encoder": [None, None],
}

FILES = {
    "README.md",
    "longtake.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/spiece.model",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
}
"""The files needed to load it."""


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {f"{n}.weight": torch.randn(8, 4, generator=generator) for n in range(4)}


def save_shards(folder: Path, state) -> None:
    """Two shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    shards = [dict(list(state.items())[n::2]) for n in (0, 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
    where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def save_folder(folder: Path, seed=0) -> Path:
    """A model of three parts and files that are not needed."""
    save_shards(folder / "transformer", tensors(seed))
    texts = {
        "model_index.json": json.dumps(INDEX),
        "scheduler/scheduler_config.json": '{"steps": 4}',
        "tokenizer/spiece.model": "words",
        "transformer/config.json": "{}",
        "longtake.json": "{}\n",
        "README.md": "---\nlicense: apache-2.0\ntags: [film]\n---\nread me",
        "whole-model.safetensors": "all of it again",
        "transformer/diffusion_pytorch_model.fp16.safetensors": "and again",
        "assets/example.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
