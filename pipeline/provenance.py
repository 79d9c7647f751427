"""What decides a film's bits in addition to its storyboard: weights, versions, precision, threads, ranks, processor."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import av
import torch

from longtake.pipeline.attention.kernels import kernel_for
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.keys import RECORDED_LATER, Parts
from longtake.pipeline.models.compiled import compiler
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.weights.options import AS_STORED, LoadOptions, Numerics

ONE_RANK = Degrees()

GPU_PARTS = ("gpu", "attention", "float32 on the GPU", "convolutions", "sums with products")
"""Parts that are known only to a process that sees the GPU."""

PARTLY_KNOWN = (*GPU_PARTS, *RECORDED_LATER)
"""Parts that count only where both sides know them."""

PROCESSOR_PARTS = ("cpu", "cpu arithmetic", *GPU_PARTS)
"""Parts that differ between processors under the same software."""

RELAX = ", or --numerics relaxed, which allows any processor"

TAKE_PARTS = ("given", "upscaler", "loras")
"""Parts that `open_take` adds, and checks itself."""


def numerics(model: FilmModel, degrees: Degrees = ONE_RANK, load: LoadOptions = AS_STORED) -> Parts:
    """The numerics of this process, as it is set up now.

    Args:
        model: opened with `load`.
        degrees: of the gang that renders.
        load: how the ranks of the gang open the model. If they compute on a GPU and this process sees one, its name
            and the attention kernels that it runs are among the parts, unless the numerics are relaxed.
    """
    parts = {
        **process_parts(model.fingerprint(), model.dtype, load.device),
        "audio_lag": model.audio_lag,
        "degrees": f"ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg}",
    }
    if load.quantize is not None:
        parts["quantize"] = f"{load.quantize}, torchao {version('torchao')}"
    if load.compile != "none":
        parts["compile"] = f"{load.compile}, {compiler(load.device)}"
    parts["rollout"] = model.rollout.describe(model.kv_plan)
    if gpu := gpu_parts(load.device):
        parts |= gpu
        parts["attention"] = _attention_kernels(model, load.device.type)
    return on_processors(parts, load.numerics)


def on_processors(parts: Parts, policy: Numerics) -> Parts:
    """The numerics that hold for the processors that the policy allows: relaxed, those of any processor are equal."""
    if policy == "exact":
        return parts
    return {**{name: part for name, part in parts.items() if name not in PROCESSOR_PARTS}, "processor": "any"}


def process_parts(weights: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The numerics of this process that every model has, a film's or an upscaler's.

    Args:
        weights: their fingerprint.
        dtype: of the weights.
        device: where they compute.
    """
    parts = {
        "weights": weights,
        "torch": torch.__version__,
        "av": av.__version__,
        "dtype": str(dtype),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cpu":
        parts["cpu arithmetic"] = cpu_arithmetic(dtype)
    return parts


@cache
def cpu_arithmetic(dtype: torch.dtype) -> str:
    """A digest of what this process computes from fixed numbers, in float32 and `dtype`.

    MKL and oneDNN choose their code by the processor and by the environment (`MKL_CBWR`, `ONEDNN_MAX_CPU_ISA`), and do
    not say which. Other code adds in another order, so it gives other bits.
    """
    draw = torch.Generator().manual_seed(0)
    digest = sha256()
    with torch.no_grad():
        for kind in dict.fromkeys((torch.float32, dtype)):
            for rows, inner, columns in ((7, 67, 5), (64, 256, 192)):
                left = torch.randn(rows, inner, generator=draw).to(kind)
                product = left @ torch.randn(inner, columns, generator=draw).to(kind)
                digest.update(product.float().numpy().tobytes())
            pictures, filters = (torch.randn(shape, generator=draw) for shape in ((1, 16, 12, 12), (24, 16, 3, 3)))
            convolved = torch.nn.functional.conv2d(pictures.to(kind), filters.to(kind), padding=1)
            digest.update(torch.nn.functional.gelu(convolved.float()).numpy().tobytes())
    return digest.hexdigest()[:16]


def gpu_parts(device: torch.device) -> dict[str, Any]:
    """The name of the GPU `device` and how it computes; empty if it is none, or if this process does not see it."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return {}
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "gpu": torch.cuda.get_device_name(device),
        "float32 on the GPU": f"products {_float32(matmul.allow_tf32)}, convolutions {_float32(cudnn.allow_tf32)}",
        "convolutions": f"cudnn {_cudnn_version()}, {_chosen(cudnn.deterministic, cudnn.benchmark)}",
        "sums with products": "rounded once",
    }


def _cudnn_version() -> int | None:
    version: Callable[[], int | None] = torch.backends.cudnn.version
    return version()


def _float32(shortened: bool) -> str:
    return "tf32" if shortened else "whole"


def _chosen(deterministic: bool, timed: bool) -> str:
    return f"{'deterministic' if deterministic else 'any'} kernels, {'timed' if timed else 'by rule'}"


def check_same(here: Parts, promised: Parts) -> None:
    """Raise `JournalError` unless a process with the numerics `here` computes the bits that the journal promises.

    Args:
        promised: the numerics that the journal's keys are made of.
    """
    known_to_both = here.keys() & promised.keys()
    compared = [
        name
        for name in {**here, **promised}
        if name not in TAKE_PARTS and (name not in PARTLY_KNOWN or name in known_to_both)
    ]
    differ_in = [name for name in compared if here.get(name) != promised.get(name)]
    if differ_in:
        differ = [f"{name} is {here.get(name)}, not {promised.get(name)}" for name in differ_in]
        raise JournalError(
            f"this node would render other bits: {'; '.join(differ)}; use the same image and processor everywhere"
            f"{RELAX if set(differ_in) <= set(PROCESSOR_PARTS) else ''}"
        )


def _attention_kernels(model: FilmModel, device: str) -> str:
    """The kernels that prove themselves on a GPU, without and with a mask, for each head width of the model."""
    _, height, width = model.latent_shapes(model.defaults.width, model.defaults.height)["video"]
    sites = model.denoiser.sites(height, width, model.chunk_latents, 1)
    chosen = []
    for head_dim in sorted({site.head_dim for site in sites}):
        plain, masked = (kernel_for(device, model.dtype, head_dim, mask).__name__ for mask in (False, True))
        chosen.append(f"{head_dim}: {plain}, masked {masked}")
    return "; ".join(chosen)
