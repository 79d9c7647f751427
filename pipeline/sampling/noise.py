"""Noise that depends only on what it is for: not on ranks, chunk borders, or the chunk at which a run resumed."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


class KeyedNoise:
    """Standard normal noise keyed by (seed, stream, absolute latent index, draw), drawn on the CPU.

    The key selects its own Philox stream (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3). It has 128 bits,
    so that the keys of hours of latents do not collide, as they would in the 32 bits of `torch.manual_seed`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def draw(self, stream: str, latents: Sequence[int], shape: Sequence[int], draw: int = 0) -> Tensor:
        """Noise [len(latents) *shape], float32.

        Args:
            stream: "video" or "audio".
            latents: their absolute numbers in the film.
            shape: of one latent.
            draw: how often a sampler that adds fresh noise has drawn for the same latent before.
        """
        rows = [self._latent(stream, latent, shape, draw) for latent in latents]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, *shape)

    def _latent(self, stream: str, latent: int, shape: Sequence[int], draw: int) -> np.ndarray:
        name = f"{self.seed}/{stream}/{latent}/{draw}".encode()
        key = int.from_bytes(blake2b(name, digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key)).standard_normal(tuple(shape), dtype=np.float32)
