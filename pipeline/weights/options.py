"""How weights are to lie in memory."""

from dataclasses import dataclass

import torch

CPU = torch.device("cpu")


@dataclass(frozen=True)
class LoadOptions:
    """What a model is loaded as.

    Args:
        dtype: of the weights; as stored, where not given.
        device: where they lie.
    """

    dtype: torch.dtype | None = None
    device: torch.device = CPU
