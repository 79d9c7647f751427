"""The workers of `longtake upscale`: on an existing cluster, or on one that is started here for this run."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import ray
import torch

from longtake.actors.address import LOCAL
from longtake.actors.cluster import joined, joins
from longtake.actors.pool_config import Timeouts
from longtake.actors.upscale_actor import WorkerConfig, free_bytes, numerics_there
from longtake.actors.upscale_film import WorkerSetup
from longtake.actors.upscale_options import UpscaleOptions
from longtake.actors.upscale_pool import UpscalePool, UpscalePoolConfig
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.devices import DEVICES, check_device
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler, grid_of
from longtake.pipeline.upscaling.preflight import check_memory, check_model, worker_bytes
from longtake.pipeline.upscaling.work import numerics

CPU, GPU = "cpu", "cuda"


def load_here(options: UpscaleOptions) -> StreamingUpscaler:
    """The model in this process, on its GPU if it has one and `--device` allows it.

    Raises:
        SpecError: the model does not support the options.
        CapacityError: it is to run on a GPU of this machine, which has none.
        WeightsError: there is no such model.
    """
    check_device(options.device, here=not joins(options.address), known=("auto", *DEVICES))
    model = WorkerConfig(options.model, _device_here(options), options.threads).load()
    check_model(model, options.spec)
    return model


def open_workers(
    stack: ExitStack, options: UpscaleOptions, footage: Footage, num_frames: int, model: StreamingUpscaler
) -> WorkerSetup:
    """The workers and what they need. An existing cluster is joined immediately, until `stack` is closed.

    Args:
        model: the result of `load_here`.

    Raises:
        CapacityError: the requested workers do not fit into this machine's memory.
    """
    if joins(options.address):
        return _workers_there(stack, options, model)
    return _workers_here(options, footage, most=-(-num_frames // options.segment_frames), model=model)


def _workers_there(stack: ExitStack, options: UpscaleOptions, model: StreamingUpscaler) -> WorkerSetup:
    stack.enter_context(joined(options.address))
    resources: dict[str, float] = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    device = options.device if options.device != "auto" else GPU if gpus else CPU
    worker = WorkerConfig(options.model, device, options.threads, options.policy)
    count = options.workers or gpus or max(1, int(resources.get("CPU", 1)) // options.threads)
    here = _device_here(options) == worker.device
    parts = numerics(model, options.policy) if here else numerics_there(worker)
    return WorkerSetup(_started(nullcontext(), _pool_config(options, worker, count)), worker, parts, grid_of(model))


def _workers_here(options: UpscaleOptions, footage: Footage, most: int, model: StreamingUpscaler) -> WorkerSetup:
    worker = WorkerConfig(options.model, _device_here(options), options.threads, options.policy)
    need, free = worker_bytes(footage, options.scale, model), free_bytes(worker.device)
    cores = max(1, (os.cpu_count() or 1) // options.threads)
    if options.workers is None:
        slots = torch.cuda.device_count() if worker.device == GPU else cores
        fitting = free // need if worker.device == CPU else slots
        count = max(1, min(slots, most, fitting))
    else:
        count = options.workers
    check_memory(need, free, count if worker.device == CPU else 1)  # each worker has a GPU to itself
    config = _pool_config(options, worker, count)
    workers = _started(joined(LOCAL, count * config.cpus_each), config)
    return WorkerSetup(workers, worker, numerics(model, options.policy), grid_of(model))


@contextmanager
def _started(cluster: AbstractContextManager[None], config: UpscalePoolConfig) -> Iterator[UpscalePool]:
    with cluster, UpscalePool(config) as workers:
        yield workers


def _pool_config(options: UpscaleOptions, worker: WorkerConfig, count: int) -> UpscalePoolConfig:
    return UpscalePoolConfig(count, worker, timeouts=Timeouts(chunk=options.segment_deadline_s))


def _device_here(options: UpscaleOptions) -> str:
    return GPU if options.device != CPU and torch.cuda.is_available() else CPU
