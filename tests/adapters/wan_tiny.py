"""Tiny random Wans that tests share; the sizes are those of diffusers' own tests, or smaller."""

import torch
from diffusers import AutoencoderKLWan

FORMS = ("2.1", "2.2")


def tiny_vae(form: str, dtype: torch.dtype = torch.float64) -> AutoencoderKLWan:
    """A small video autoencoder: 2.1 with four latent channels, 2.2 with patches and residual shortcuts."""
    common = {"dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    own = {
        "2.1": {"base_dim": 3, "z_dim": 4},
        "2.2": {
            "base_dim": 3,
            "decoder_base_dim": 4,
            "z_dim": 6,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
        },
    }[form]
    channels = own["z_dim"]
    statistics = {
        "latents_mean": [0.1 * channel - 0.2 for channel in range(channels)],
        "latents_std": [0.5 + 0.3 * channel for channel in range(channels)],
    }
    torch.manual_seed(7)
    return AutoencoderKLWan(**common, **own, **statistics).eval().to(dtype)
