"""Who does the work: workers on a cluster that is there, or on one of our own for as long as it is needed."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import ray
import torch
from rich.console import Console

from longtake.actors.cluster import joined
from longtake.actors.pool_config import Timeouts
from longtake.actors.upscale_actor import WorkerConfig, free_bytes, numerics_there
from longtake.actors.upscale_film import WorkerSetup
from longtake.actors.upscale_pool import UpscalePool, UpscalePoolConfig
from longtake.jobs.upscale.options import UpscaleOptions
from longtake.pipeline.adapters.upscalers import upscaler_notes
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler, grid_of
from longtake.pipeline.upscaling.preflight import check_memory, check_model, worker_bytes
from longtake.pipeline.upscaling.work import numerics

CPU, GPU = "cpu", "cuda"


def load_here(options: UpscaleOptions, console: Console) -> StreamingUpscaler:
    """The model in this process, on its GPU if there is one; says so where its weights are random.

    Raises:
        SpecError: it cannot do what is wished.
        WeightsError: there is no such model.
    """
    model = WorkerConfig(options.model, _device_here(), options.threads).load()
    check_model(model, options.spec)
    for note in upscaler_notes(options.model, model):
        console.print(f"{note}.", style="yellow", highlight=False, markup=False)
    return model


def open_shop(
    stack: ExitStack, options: UpscaleOptions, footage: Footage, num_frames: int, model: StreamingUpscaler
) -> WorkerSetup:
    """Everything that the road on Ray needs. A cluster that is there already is joined at once, on `stack`.

    Args:
        model: as `load_here` gives it.

    Raises:
        CapacityError: the workers that were asked for do not fit into this machine's memory.
    """
    if options.address or "RAY_JOB_ID" in os.environ or "RAY_ADDRESS" in os.environ:
        return _shop_there(stack, options, model)
    return _shop_here(options, footage, most=-(-num_frames // options.segment_frames), model=model)


def _shop_there(stack: ExitStack, options: UpscaleOptions, model: StreamingUpscaler) -> WorkerSetup:
    stack.enter_context(joined(options.address))
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    tools = WorkerConfig(options.model, GPU if gpus else CPU, options.threads)
    count = options.workers or gpus or max(1, int(there.get("CPU", 1)) // options.threads)
    parts = numerics(model) if _device_here() == tools.device else numerics_there(tools)
    return WorkerSetup(_hired(nullcontext(), _staff(options, tools, count)), tools, parts, grid_of(model))


def _shop_here(options: UpscaleOptions, footage: Footage, most: int, model: StreamingUpscaler) -> WorkerSetup:
    tools = WorkerConfig(options.model, _device_here(), options.threads)
    need, free = worker_bytes(footage, options.scale, model), free_bytes(tools.device)
    cores = max(1, (os.cpu_count() or 1) // options.threads)
    if options.workers is None:
        place = torch.cuda.device_count() if tools.device == GPU else cores
        room = free // need if tools.device == CPU else place
        count = max(1, min(place, most, room))
    else:
        count = options.workers
    check_memory(need, free, count if tools.device == CPU else 1)  # a GPU is one worker's own
    staff = _staff(options, tools, count)
    workers = _hired(joined(None, count * staff.cpus_each), staff)
    return WorkerSetup(workers, tools, numerics(model), grid_of(model))


@contextmanager
def _hired(cluster: AbstractContextManager[None], staff: UpscalePoolConfig) -> Iterator[UpscalePool]:
    with cluster, UpscalePool(staff) as workers:
        yield workers


def _staff(options: UpscaleOptions, tools: WorkerConfig, count: int) -> UpscalePoolConfig:
    return UpscalePoolConfig(count, tools, timeouts=Timeouts(chunk=options.segment_deadline_s))


def _device_here() -> str:
    return GPU if torch.cuda.is_available() else CPU
