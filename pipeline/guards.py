"""Guards: what a stage hands on is checked, so that an overflow ends the take and never becomes part of a film.

A check is one reduction over a chunk's values on their device, and one number that is read back.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from longtake.pipeline.errors import NumericsError

Act = Literal["embed", "denoise", "decode", "upscale", "encode", "publish"]

LARGEST = {"prompt": 1e6, "latents": 1e4, "picture": 1e4, "sound": 1e4}
"""The largest absolute value that is not taken for an overflow. Prompts are the outputs of language models, latents
have unit variance, pictures and sound lie in -1..1."""


def guard(act: Act, what: str, values: Tensor, where: str, dtype: torch.dtype | None) -> None:
    """Raise `NumericsError` unless all `values` are finite and in range.

    Args:
        act: the stage that made them.
        what: they are, such as "video latents"; its last word is a key of `LARGEST`.
        where: they belong, such as "chunk 3".
        dtype: of the weights that made them; None if no weights did.
    """
    if not values.numel() or not values.is_floating_point():
        return
    lowest, highest = torch.stack(torch.aminmax(values.detach())).tolist()
    limit = LARGEST[what.rpartition(" ")[2]]
    if -limit <= lowest and highest <= limit:  # False for values that are not numbers
        return
    found = f"values from {lowest:.3g} to {highest:.3g}"
    if lowest != lowest or highest != highest:  # noqa: PLR0124 (not a number)
        found = "values that are not numbers"
    weights = "" if dtype is None else f" ({act} runs in {_name(dtype)})"
    raise NumericsError(
        f"{act}: the {what} of {where} hold {found}{weights}, more than {limit:g} in size is an overflow;"
        f" {_fix(act, dtype)}; nothing of it is kept, and what was finished before is"
    )


def precision(network: Any) -> torch.dtype | None:
    """The dtype of a network's weights, or of the first network that an object holds; None if it holds none."""
    network = getattr(network, "loaded", network)
    for held in (network, *vars(network).values()):
        if isinstance(held, nn.Module):
            return next((weight.dtype for weight in held.parameters()), None)
    return None


def _fix(act: Act, dtype: torch.dtype | None) -> str:
    if act in ("embed", "denoise"):
        if dtype == torch.float16:
            return "float16 ends at 65504: use --dtype bfloat16, or --dtype float32 on a CPU"
        if dtype is not None and dtype.itemsize < 4:
            return "use --dtype float32, leave out --quantize and lower sampling.guidance"
        return "weights may be damaged, or a LoRA or sampling.guidance too strong: check them, try a lower guidance"
    if act in ("encode", "publish"):
        return "the sound may come from a damaged file: render with --fresh"
    if dtype is not None and dtype.itemsize < 4:
        return f"codecs and upscalers run as stored: use a copy whose weights are float32 instead of {_name(dtype)}"
    return "its weights may be damaged: fetch the model again"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
