"""Training on Ray: one worker per rank, placed as a whole and failing as a whole; DeepSpeed averages the gradients."""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Self

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longtake.actors.handles import ActorOptions, Ref, start_actor
from longtake.actors.policy import START_S
from longtake.actors.rendezvous import Rendezvous, StoreAddress
from longtake.pipeline.errors import CapacityError, JournalError, LongtakeError
from longtake.pipeline.journal.writer import lend_hand
from longtake.pipeline.training.average import RunningAverage
from longtake.pipeline.training.run_folder import RunFolder, state_name
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch, TaskBuilder, TrainedModel, TrainTask
from longtake.pipeline.weights.load import save_model

CONNECT_S = 60.0  # until a rank has reached the rendezvous
EXCHANGE_S = 1800.0  # a rank that waits longer than this for a peer raises
DEATH_S = 3.0  # in which Ray notices that a process has died
AVERAGE = "average.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """What a worker must know about a run to take part in it."""

    spec: TrainSpec
    build: TaskBuilder
    folder: str


class Autocast(nn.Module):
    """An objective that computes in `dtype` where that is safe; its weights keep their own dtype.

    DeepSpeed's own `torch_autocast` would also send gradients of linear layers in `dtype`, and its `bf16` mode would
    convert the module itself. Both lose precision that small models need.
    """

    def __init__(self, objective: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.objective, self._device, self._dtype = objective, device, dtype

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch by name; see `TrainTask.objective`."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            losses: dict[str, Tensor] = self.objective(batch)
        return losses


class Trainer:
    """One rank of a run. Every method is called on all ranks, in the same order."""

    def __init__(self, rank: int, config: TrainConfig) -> None:
        self._rank, self._config, self._spec = rank, config, config.spec
        self._rendezvous = Rendezvous(rank, self._spec.workers, EXCHANGE_S)
        self._hand: IO[str] | None = None
        self._step = 0
        # On a CPU, threads that draw batches ahead would slow down the computation; next to a GPU they are free.
        self._loader = ThreadPoolExecutor(self._spec.threads) if self._spec.device == "cuda" else None
        self._upcoming: dict[int, Future[Batch]] = {}
        self._export_task: TrainTask | None = None

    def host(self) -> StoreAddress:
        """Open the store where the ranks meet: rank 0 only."""
        return self._rendezvous.host()

    def open(self, address: StoreAddress, step: int) -> None:
        """Meet the other ranks, build the task and the engine, and load the state of `step`."""
        spec = self._spec
        torch.set_num_threads(spec.threads)
        self._folder = RunFolder(self._config.folder)
        self._hand = lend_hand(self._folder.store)
        self._device = torch.device(spec.device)
        self._join(address)
        torch.manual_seed(spec.seed)
        self._task = self._config.build(spec)
        objective = self._task.objective.to(self._device).train()
        self._average = RunningAverage(objective, spec.ema) if self._rank == 0 else None
        self._engine = self._build_engine(objective)
        if step:
            self._load(step)

    def _join(self, address: StoreAddress) -> None:
        import deepspeed  # noqa: PLC0415 (takes a second, and reads the environment of this process)

        # DeepSpeed would now compile it, for a minute, to replace gloo between ranks on one machine.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        os.environ.update({"LOCAL_RANK": "0", "RANK": str(self._rank), "WORLD_SIZE": str(self._spec.workers)})
        self._rendezvous.join(address, "nccl" if self._spec.device == "cuda" else "gloo", CONNECT_S)

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
                # Without ZeRO, DeepSpeed does not report the norm that it clips, so `_clip` does it.
                "gradient_clipping": spec.clip if spec.zero_stage else 0.0,
                "steps_per_print": 2**62,
                "zero_optimization": {"stage": spec.zero_stage, "overlap_comm": False},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
        )
        return engine

    def train(self, num_steps: int) -> dict[str, float]:
        """Train for `num_steps` steps: their losses, averaged over steps and ranks.

        Raises:
            LongtakeError: a loss is not finite. Every rank raises it, and none can be used any more.
        """
        rows, names = [], []
        for step in range(self._step, self._step + num_steps):
            losses = self._train_step(step)
            names = sorted(losses)
            rows.append(torch.stack([losses[name].detach().float() for name in names]))
        table = torch.stack(rows) / self._spec.workers
        dist.all_reduce(table)
        self._check_finite(table, names)
        self._step += num_steps
        return dict(zip(names, table.mean(0).tolist(), strict=True))

    def _train_step(self, step: int) -> dict[str, Tensor]:
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
        if self._loader is None:
            return self._task.draw(seed, step, rank, size)
        for soon in range(step, step + 1 + self._spec.threads):
            if soon not in self._upcoming:
                self._upcoming[soon] = self._loader.submit(self._task.draw, seed, soon, rank, size)
        return self._upcoming.pop(step).result()

    def _clip(self) -> Tensor:
        """Clip the gradient, which the ranks have averaged by now, to its largest norm; returns the norm before."""
        return nn.utils.clip_grad_norm_(self._engine.module.parameters(), self._spec.clip or torch.inf)

    def _check_finite(self, table: Tensor, names: list[str]) -> None:
        # Once per call, so that no step waits for the device. All ranks hold the same table, so all stop together.
        wrong = (~table.isfinite()).nonzero().tolist()
        if wrong:
            row, column = wrong[0]
            raise LongtakeError(
                f"{names[column]} is {float(table[row, column])} at step {self._step + row}; the last checkpoint is"
                f" kept: use a smaller lr (it is {self._spec.lr_at(self._step + row):g}), or float32"
            )

    def save(self) -> None:
        """Write a checkpoint of this step, and the present model."""
        name = state_name(self._step)
        self._engine.save_checkpoint(str(self._folder.states_path), tag=name, save_latest=False)
        if self._average is not None:
            save_file(self._average.weights, self._folder.states_path / name / AVERAGE)
            unfinished = self._folder.path / f".{self._folder.model_path.name}.unfinished.safetensors"
            save_model(self._model(self._average), str(unfinished))
            unfinished.replace(self._folder.model_path)

    def sample(self) -> None:
        """Write samples of this step, on rank 0."""
        if self._average is not None:
            folder = self._folder.samples_path(self._step)
            folder.mkdir(parents=True, exist_ok=True)
            with torch.no_grad():
                self._task.sample(self._model(self._average), folder)

    def _model(self, average: RunningAverage) -> TrainedModel:
        # A task may load the averaged weights into its own objective, so this is not the task that is trained.
        if self._export_task is None:
            self._export_task = self._config.build(self._spec)
        return self._export_task.finished(average.state_dict())

    def _load(self, step: int) -> None:
        states, name = self._folder.states_path, state_name(step)
        path, _ = self._engine.load_checkpoint(str(states), tag=name)
        if path is None:
            raise JournalError(f"{states / name} is missing or damaged; use another -o, or add --fresh")
        if self._average is not None:
            self._average.restore(load_file(states / name / AVERAGE))
        self._step = step


class TrainWorkers:
    """All workers of one run; a context manager. Each call runs on every worker and ends when all have finished.

    Args:
        config: the same for every worker.
        step: the step that the run resumes from.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        spec, self._step = config.spec, step
        self._bundle: dict[str, float] = {"CPU": spec.threads, **({"GPU": 1} if spec.device == "cuda" else {})}
        self._num_workers = spec.workers
        self._group = placement_group([self._bundle] * spec.workers, strategy="PACK")
        env = {"DS_ACCELERATOR": spec.device, "DS_BUILD_OPS": "0", "OMP_NUM_THREADS": str(spec.threads)}
        self._trainers = [
            start_actor(
                Trainer,
                ActorOptions(
                    cpus=spec.threads,
                    gpus=self._bundle.get("GPU", 0),
                    env=env,
                    bundle=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
                ),
                rank=rank,
                config=config,
            )
            for rank in range(spec.workers)
        ]

    def __enter__(self) -> Self:
        try:
            if not self._group.wait(START_S):
                raise self._too_small()
            address: StoreAddress = ray.get(self._trainers[0].host.remote(), timeout=START_S)
            self._call("open", address, self._step)
        except GetTimeoutError:
            self._kill()
            raise self._too_small() from None
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def train(self, num_steps: int) -> Mapping[str, float]:
        """Train for `num_steps` steps: their losses, averaged over steps and ranks."""
        losses: dict[str, float] = self._call("train", num_steps)
        return losses

    def save(self) -> None:
        """Write a checkpoint of this step, and the present model."""
        self._call("save")

    def sample(self) -> None:
        """Write samples of this step."""
        self._call("sample")

    def _call(self, name: str, *arguments: Any) -> Any:
        answers: list[Ref] = [getattr(trainer, name).remote(*arguments) for trainer in self._trainers]
        try:
            first, *_ = ray.get(answers)
        except RayTaskError:
            # Where a rank died, the others fail too, since they talk to it; its death is the error to report.
            ended, _ = ray.wait(answers, num_returns=len(answers), timeout=DEATH_S)
            for answer in ended:
                with suppress(RayTaskError):
                    ray.get(answer)
            raise
        return first

    def _too_small(self) -> CapacityError:
        wanted = ", ".join(f"{number:g} {kind}" for kind, number in self._bundle.items())
        cluster = ray.cluster_resources()
        has = ", ".join(f"{cluster.get(kind, 0):g} {kind}" for kind in self._bundle)
        return CapacityError(
            f"{self._num_workers} workers with {wanted} each did not start within {START_S:g} s; the cluster has {has}:"
            f" free some, or use fewer workers or threads"
        )

    def _kill(self) -> None:
        for trainer in self._trainers:
            ray.kill(trainer)
        remove_placement_group(self._group)
