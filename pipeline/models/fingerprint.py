"""What tells one set of weights from another."""

from hashlib import sha256

import torch
from torch import nn


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights by name, with their dtypes and shapes."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
