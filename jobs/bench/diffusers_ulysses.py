"""diffusers' own Ulysses on CPU ranks, for comparison with ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from diffusers import ContextParallelConfig, WanTransformer3DModel


@contextmanager
def shared_by_ulysses(transformer: WanTransformer3DModel, degree: int, anything: bool = False) -> Iterator[None]:
    """Inside the block, `degree` ranks share the passes of `transformer`. Raises what diffusers raises.

    Args:
        transformer: every rank calls its forward with whole arguments and gets the whole result. It stays changed.
        degree: the number of ranks in the default process group.
        anything: use diffusers' mode for heads and lengths that the ranks do not divide.
    """
    # `enable_parallelism` builds its device mesh on the accelerator that torch reports, and raises if there is none. It
    # has no option for another device, although gloo can exchange CPU tensors. So torch reports "cpu" inside the block.
    # Only benches may do this: the product never pretends to have an accelerator.
    cpu = torch.device("cpu")
    with (
        mock.patch.object(torch._C, "_get_accelerator", return_value=cpu),
        mock.patch.object(torch.accelerator, "current_accelerator", return_value=cpu),
        mock.patch.object(torch.accelerator, "device_count", return_value=1),
    ):
        transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=degree, ulysses_anything=anything))
        yield
