"""Options for loading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Quantization = Literal["int8", "float8"]
"""Weight-only quantization of the denoiser's matrices; activations are unchanged."""

CPU = torch.device("cpu")
DEFAULT_CACHE = Path("~/.cache/longtake")


@dataclass(frozen=True)
class LoadOptions:
    """How to load weights.

    Args:
        dtype: precision of the weights; None keeps the stored one.
        device: where to load them.
        quantize: quantization of the denoiser's matrices; None for none.
        cache: this node's folder for downloads and checksums.
    """

    dtype: torch.dtype | None = None
    device: torch.device = CPU
    quantize: Quantization | None = None
    cache: Path = DEFAULT_CACHE

    @property
    def cache_folder(self) -> Path:
        """The absolute path of the cache."""
        return self.cache.expanduser().absolute()


AS_STORED = LoadOptions()
