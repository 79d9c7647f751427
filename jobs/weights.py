"""What the flags and the environment say of weights."""

from typing import get_args

import torch

from actors.weights import on_this_node
from pipeline.errors import SpecError
from pipeline.weights.options import LoadOptions, Quantization

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_options(dtype: str | None = None, quantize: str | None = None) -> LoadOptions:
    """What `--dtype` and `--quantize` mean on this node. Raises `SpecError` for what they do not know."""
    if dtype is not None and dtype not in DTYPES:
        raise SpecError(f"--dtype is {dtype}; use {', '.join(DTYPES)}, or leave it out: as stored")
    for known in get_args(Quantization):
        if quantize == known:
            return on_this_node(LoadOptions(dtype and DTYPES[dtype], quantize=known))
    if quantize is not None:
        raise SpecError(f"--quantize is {quantize}; use {' or '.join(get_args(Quantization))}, or leave it out")
    return on_this_node(LoadOptions(dtype and DTYPES[dtype]))
