"""How a model's weights are brought into memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Quantization = Literal["int8", "float8"]
"""How a denoiser's matrices are kept: their weights only, activations stay as they are."""

CPU = torch.device("cpu")
DEFAULT_CACHE = Path("~/.cache/longtake")


@dataclass(frozen=True)
class LoadOptions:
    """What a user chooses about weights beside their name.

    Args:
        dtype: of the weights; None: as stored.
        device: that they are loaded to.
        quantize: the denoiser's matrices, where given; see `quantize.py`.
        cache: this node's folder for what URLs hold, and for checksums.
    """

    dtype: torch.dtype | None = None
    device: torch.device = CPU
    quantize: Quantization | None = None
    cache: Path = DEFAULT_CACHE

    @property
    def cache_folder(self) -> Path:
        """The cache's absolute path."""
        return self.cache.expanduser().absolute()


AS_STORED = LoadOptions()
