"""Options for loading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from longtake.pipeline.errors import SpecError

Quantization = Literal["int8", "float8"]
"""Weight-only quantization of the denoiser's matrices; activations are unchanged."""

Offload = Literal["auto", "none", "layers", "encoder"]
"""What is not kept in memory: the denoiser's layers, each of which is loaded while it runs; the text encoder, which is
loaded for each prompt; "auto" offloads the layers where the denoiser does not fit."""

Compile = Literal["none", "blocks"]
"""What of the denoiser PyTorch compiles: nothing, or each of its blocks as one graph; it changes bits."""

Numerics = Literal["exact", "relaxed"]
"""Which processors may compute a film: those that compute the same bits, or any."""

CPU = torch.device("cpu")
DEFAULT_CACHE = Path("~/.cache/longtake")


def check_numerics(value: str) -> Numerics:
    """The policy of that name. Raises `SpecError` where there is none."""
    known: Numerics | None = next((known for known in get_args(Numerics) if known == value), None)
    if known is None:
        raise SpecError(f"--numerics is {value}; use {' or '.join(get_args(Numerics))}")
    return known


@dataclass(frozen=True)
class LoadOptions:
    """How to load weights.

    Args:
        dtype: precision of the weights; None keeps the stored one.
        device: where to load them.
        quantize: quantization of the denoiser's matrices; None for none.
        offload: what is not kept in memory; it changes no bits.
        cache: this node's folder for downloads and checksums.
        numerics: which processors may compute with them.
        compile: what PyTorch compiles.
    """

    dtype: torch.dtype | None = None
    device: torch.device = CPU
    quantize: Quantization | None = None
    cache: Path = DEFAULT_CACHE
    offload: Offload = "none"
    numerics: Numerics = "exact"
    compile: Compile = "none"

    @property
    def cache_folder(self) -> Path:
        """The absolute path of the cache."""
        return self.cache.expanduser().absolute()


AS_STORED = LoadOptions()
