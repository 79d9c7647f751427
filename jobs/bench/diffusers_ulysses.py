"""diffusers' own Ulysses on CPU ranks, so that benches can stand it beside ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from diffusers import ContextParallelConfig, WanTransformer3DModel


@contextmanager
def shared_by_ulysses(transformer: WanTransformer3DModel, degree: int, anything: bool = False) -> Iterator[None]:
    """Inside the block, `degree` ranks share the passes of `transformer`; whatever diffusers raises comes through.

    Args:
        transformer: whose forward every rank then calls with whole arguments, and gets the whole result of; it stays
            changed.
        degree: all ranks of the default process group.
        anything: diffusers' mode for heads and lengths that do not divide.
    """
    cpu = torch.device("cpu")
    with (  # diffusers asks for an accelerator, and finds none
        mock.patch.object(torch._C, "_get_accelerator", return_value=cpu),
        mock.patch.object(torch.accelerator, "current_accelerator", return_value=cpu),
        mock.patch.object(torch.accelerator, "device_count", return_value=1),
    ):
        transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=degree, ulysses_anything=anything))
        yield


def tiny_wan(
    heads: int, head_dim: int = 12, layers: int = 2, channels: int = 4, patch: int = 1
) -> WanTransformer3DModel:
    """A small random Wan; `torch.manual_seed` decides its weights."""
    return WanTransformer3DModel(
        patch_size=(1, patch, patch),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=channels,
        text_dim=16,
        freq_dim=32,
        ffn_dim=2 * heads * head_dim,
        num_layers=layers,
        rope_max_seq_len=64,
    ).eval()
