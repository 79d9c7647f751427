"""Fingerprints of weights."""

from hashlib import sha256

import torch
from torch import Tensor, nn


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights with their names, dtypes and shapes."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for plain in _plain(tensor):
            digest.update(plain.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(tensor: Tensor) -> list[Tensor]:
    """The plain tensors inside a tensor: itself, or the parts of a quantized one."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    return [tensor] if flatten is None else [plain for name in flatten()[0] for plain in _plain(getattr(tensor, name))]
