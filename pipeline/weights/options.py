"""Options for loading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Quantization = Literal["int8", "float8"]
"""Weight-only quantization of the denoiser's matrices; activations are unchanged."""

Offload = Literal["auto", "none", "layers", "encoder"]
"""What is not kept in memory: the denoiser's layers, each of which is loaded while it runs; the text encoder, which is
loaded for each prompt; "auto" offloads the layers where the denoiser does not fit."""

CPU = torch.device("cpu")
DEFAULT_CACHE = Path("~/.cache/longtake")


@dataclass(frozen=True)
class LoadOptions:
    """How to load weights.

    Args:
        dtype: precision of the weights; None keeps the stored one.
        device: where to load them.
        quantize: quantization of the denoiser's matrices; None for none.
        offload: what is not kept in memory; it changes no bits.
        cache: this node's folder for downloads and checksums.
    """

    dtype: torch.dtype | None = None
    device: torch.device = CPU
    quantize: Quantization | None = None
    cache: Path = DEFAULT_CACHE
    offload: Offload = "none"

    @property
    def cache_folder(self) -> Path:
        """The absolute path of the cache."""
        return self.cache.expanduser().absolute()


AS_STORED = LoadOptions()
