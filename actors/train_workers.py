"""Training on Ray: one worker per rank, placed as a whole, failing as a whole; DeepSpeed carries the gradients."""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import ray
import torch
import torch.distributed as ranks
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longtake.pipeline.errors import CapacityError, JournalError, LongtakeError
from longtake.pipeline.journal.writer import lend_hand
from longtake.pipeline.training.average import RunningAverage
from longtake.pipeline.training.run_folder import RunFolder, state_name
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch, TaskBuilder, TrainedModel, TrainTask
from longtake.pipeline.weights.load import save_model

START_S = 180.0
RENDEZVOUS_S = 60.0
SILENCE_S = 1800.0  # a worker that another one waits for longer than this is given up
DEATH_S = 3.0  # in which Ray notices that a process has died
AVERAGE = "average.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """What a worker must know to take part in a run."""

    spec: TrainSpec
    build: TaskBuilder
    folder: str


class Autocast(nn.Module):
    """An objective that computes in `dtype` where that is safe; its weights stay as they are.

    DeepSpeed's own `torch_autocast` would also send gradients of linear layers in that dtype, and its `bf16` mode would
    keep the module itself in it; both cost precision that small models have no use in losing.
    """

    def __init__(self, objective: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.objective, self._device, self._dtype = objective, device, dtype

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `TrainTask.objective`."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            losses: dict[str, Tensor] = self.objective(batch)
        return losses


class Trainer:
    """One rank of a run. Every method is called on all ranks, in the same order."""

    def __init__(self, rank: int, order: TrainConfig) -> None:
        self._rank, self._order, self._spec = rank, order, order.spec
        self._step = 0
        # On two cores a thread that draws ahead takes from the one that computes; beside a GPU it is free.
        self._ahead = ThreadPoolExecutor(1) if self._spec.device == "cuda" else None
        self._coming: dict[int, Future[Batch]] = {}
        self._finisher: TrainTask | None = None

    def host(self) -> tuple[str, int]:
        """Open the rendezvous, on rank 0: its address, and a port that is bound already, so nobody else gets it."""
        address = ray.util.get_node_ip_address()
        self._store = ranks.TCPStore(
            address, 0, self._spec.workers, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=SILENCE_S)
        )
        return address, self._store.port

    def open(self, address: str, port: int, step: int) -> None:
        """Meet the other ranks, build lesson and engine, and go to where the run is."""
        spec = self._spec
        torch.set_num_threads(spec.threads)
        self._folder = RunFolder(self._order.folder)
        self._hand = lend_hand(self._folder.store)
        self._device = torch.device(spec.device)
        self._join(address, port)
        torch.manual_seed(spec.seed)
        self._lesson = self._order.build(spec)
        objective = self._lesson.objective.to(self._device).train()
        self._average = RunningAverage(objective, spec.ema) if self._rank == 0 else None
        self._engine = self._build_engine(objective)
        if step:
            self._load(step)

    def _join(self, address: str, port: int) -> None:
        import deepspeed  # noqa: PLC0415 (a second, and it reads the environment that this process was given)

        # It would be compiled now, for a minute, to replace gloo between ranks on one machine.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if self._rank:
            self._store = ranks.TCPStore(address, port, self._spec.workers, timeout=timedelta(seconds=RENDEZVOUS_S))
        os.environ.update({"LOCAL_RANK": "0", "RANK": str(self._rank), "WORLD_SIZE": str(self._spec.workers)})
        ranks.init_process_group(
            "nccl" if self._spec.device == "cuda" else "gloo",
            store=self._store,
            rank=self._rank,
            world_size=self._spec.workers,
            timeout=timedelta(seconds=SILENCE_S),
        )

    def _build_engine(self, objective: nn.Module) -> Any:
        import deepspeed  # noqa: PLC0415 (see `_join`)

        spec = self._spec
        # torch's fused AdamW is as fast as DeepSpeed's on a CPU, and needs no compiler.
        optimizer = torch.optim.AdamW(
            [weight for weight in objective.parameters() if weight.requires_grad],
            lr=spec.lr,
            betas=spec.betas,
            weight_decay=spec.weight_decay,
            fused=True,
        )
        engine, *_ = deepspeed.initialize(
            model=Autocast(objective, spec.device, getattr(torch, spec.dtype)),
            optimizer=optimizer,
            dist_init_required=False,
            config={
                "train_batch_size": spec.batch_size,
                "train_micro_batch_size_per_gpu": spec.worker_batch,
                "gradient_accumulation_steps": 1,
                # Without ZeRO the norm that DeepSpeed clips by is not told, so we clip ourselves; see `_clip`.
                "gradient_clipping": spec.clip if spec.zero_stage else 0.0,
                "steps_per_print": 2**62,
                "zero_optimization": {"stage": spec.zero_stage, "overlap_comm": False},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
        )
        return engine

    def train(self, num_steps: int) -> dict[str, float]:
        """Do `num_steps` steps: their losses, averaged over steps and ranks.

        Raises:
            LongtakeError: a loss is not finite, on every rank alike; this worker is of no use any more.
        """
        rows, names = [], []
        for step in range(self._step, self._step + num_steps):
            losses = self._do(step)
            names = sorted(losses)
            rows.append(torch.stack([losses[name].detach().float() for name in names]))
        table = torch.stack(rows) / self._spec.workers
        ranks.all_reduce(table)
        self._check_finite(table, names)
        self._step += num_steps
        return dict(zip(names, table.mean(0).tolist(), strict=True))

    def _do(self, step: int) -> dict[str, Tensor]:
        spec = self._spec
        for group in self._engine.optimizer.param_groups:
            group["lr"] = spec.lr_at(step)
        batch = self._draw(step)
        torch.manual_seed(hash((spec.seed, step, self._rank)))
        losses: dict[str, Tensor] = self._engine({name: value.to(self._device) for name, value in batch.items()})
        self._engine.backward(losses["loss"])
        norm = None if spec.zero_stage else self._clip()
        self._engine.step()
        if norm is None:
            norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=self._device)
        if self._average is not None:
            self._average.follow(step)
        return {**losses, "grad_norm": norm}

    def _draw(self, step: int) -> Batch:
        seed, rank, size = self._spec.seed, self._rank, self._spec.worker_batch
        if self._ahead is None:
            return self._lesson.draw(seed, step, rank, size)
        ready = self._coming.pop(step, None) or self._ahead.submit(self._lesson.draw, seed, step, rank, size)
        self._coming[step + 1] = self._ahead.submit(self._lesson.draw, seed, step + 1, rank, size)
        return ready.result()

    def _clip(self) -> Tensor:
        """Cut the gradient, which ranks have averaged by now, to its greatest norm: the norm that it had."""
        return nn.utils.clip_grad_norm_(self._engine.module.parameters(), self._spec.clip or torch.inf)

    def _check_finite(self, table: Tensor, names: list[str]) -> None:
        # Once per call, so that no step waits for the device. All ranks hold the same table and stop together.
        wrong = (~table.isfinite()).nonzero().tolist()
        if wrong:
            row, column = wrong[0]
            raise LongtakeError(
                f"{names[column]} is {float(table[row, column])} at step {self._step + row}; the last checkpoint is"
                f" kept: use a smaller lr (it is {self._spec.lr_at(self._step + row):g}), or float32"
            )

    def save(self) -> None:
        """Write the state of this step, and the model as it is now."""
        name = state_name(self._step)
        self._engine.save_checkpoint(str(self._folder.states_path), tag=name, save_latest=False)
        if self._average is not None:
            save_file(self._average.weights, self._folder.states_path / name / AVERAGE)
            unfinished = self._folder.path / f".{self._folder.model_path.name}.unfinished.safetensors"
            save_model(self._model(self._average), str(unfinished))
            unfinished.replace(self._folder.model_path)

    def sample(self) -> None:
        """Have the lesson leave samples of this step, on rank 0."""
        if self._average is not None:
            folder = self._folder.samples_path(self._step)
            folder.mkdir(parents=True, exist_ok=True)
            with torch.no_grad():
                self._lesson.sample(self._model(self._average), folder)

    def _model(self, average: RunningAverage) -> TrainedModel:
        # A lesson may load the averaged weights into its own objective, which must not be the one that is trained.
        if self._finisher is None:
            self._finisher = self._order.build(self._spec)
        return self._finisher.finished(average.state_dict())

    def _load(self, step: int) -> None:
        states, name = self._folder.states_path, state_name(step)
        path, _ = self._engine.load_checkpoint(str(states), tag=name)
        if path is None:
            raise JournalError(f"{states / name} is missing or damaged; use another -o, or add --fresh")
        if self._average is not None:
            self._average.restore(load_file(states / name / AVERAGE))
        self._step = step


class TrainWorkers:
    """All workers of one run; a call is made on every one of them, and ends when all have.

    Args:
        order: the same for every worker.
        step: where the run is.
    """

    def __init__(self, order: TrainConfig, step: int) -> None:
        spec, self._step = order.spec, step
        self._bundle: dict[str, float] = {"CPU": spec.threads, **({"GPU": 1} if spec.device == "cuda" else {})}
        self._num_workers = spec.workers
        self._group = placement_group([self._bundle] * spec.workers, strategy="PACK")
        environment = {"DS_ACCELERATOR": spec.device, "DS_BUILD_OPS": "0", "OMP_NUM_THREADS": str(spec.threads)}
        self._trainers = [
            ray.remote(Trainer)
            .options(
                num_cpus=spec.threads,
                num_gpus=self._bundle.get("GPU", 0),
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": environment},
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            )
            .remote(rank, order)
            for rank in range(spec.workers)
        ]

    def __enter__(self) -> Self:
        try:
            if not self._group.wait(START_S):
                raise CapacityError(self._no_room())
            address, port = ray.get(self._trainers[0].host.remote(), timeout=START_S)
            self._call("open", address, port, self._step)
        except GetTimeoutError:
            self._dismiss()
            raise CapacityError(self._no_room()) from None
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    def train(self, num_steps: int) -> Mapping[str, float]:
        """See `Trainer.train`."""
        losses: dict[str, float] = self._call("train", num_steps)
        return losses

    def save(self) -> None:
        """See `Trainer.save`."""
        self._call("save")

    def sample(self) -> None:
        """See `Trainer.sample`."""
        self._call("sample")

    def _call(self, name: str, *arguments: Any) -> Any:
        answers = [getattr(trainer, name).remote(*arguments) for trainer in self._trainers]
        try:
            first, *_ = ray.get(answers)
        except RayTaskError:
            # Where a rank died, the others fail too, as they talk to it; its death is what is to be told.
            ended, _ = ray.wait(answers, num_returns=len(answers), timeout=DEATH_S)
            for answer in ended:
                with suppress(RayTaskError):
                    ray.get(answer)
            raise
        return first

    def _no_room(self) -> str:
        wanted = ", ".join(f"{number:g} {kind}" for kind, number in self._bundle.items())
        there = ray.cluster_resources()
        has = ", ".join(f"{there.get(kind, 0):g} {kind}" for kind in self._bundle)
        return (
            f"{self._num_workers} workers with {wanted} each did not start within {START_S:g} s; the cluster has {has}:"
            f" free some, or use fewer workers or threads"
        )

    def _dismiss(self) -> None:
        for trainer in self._trainers:
            ray.kill(trainer)
        remove_placement_group(self._group)
