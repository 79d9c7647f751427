"""Train a model on Ray with DeepSpeed; a run can be stopped at any step and resumed from its last checkpoint."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event
from time import monotonic

from ray.exceptions import RayActorError

from longtake.actors.cluster import cluster_note, joined
from longtake.actors.load_options import resolve_device
from longtake.actors.train_workers import TrainConfig, TrainWorkers
from longtake.jobs.interrupt import received, stop_on_signals
from longtake.jobs.pace import Pace
from longtake.jobs.progress import Progress
from longtake.pipeline.errors import ActorLost
from longtake.pipeline.journal.root import check_folder
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.training.run_folder import Progress as Position, RunFolder, fresh_folder
from longtake.pipeline.training.spec import TrainSpec, check_limits, check_limits_are_logged, load_train_spec
from longtake.pipeline.training.task import TaskBuilder

CALL_S = 2.0  # length of one remote call: short, since a run stops between calls, but long enough to cost nothing


@dataclass(frozen=True)
class TrainOptions:
    """The flags of `longtake train`, which its help explains."""

    overrides: tuple[str, ...] = ()
    data: str | None = None
    fresh: bool = False
    address: str | None = None
    device: str | None = None


def train(spec: TrainSpec, folder: RunFolder, build: TaskBuilder, stopping: Event, shown: Progress) -> Position:
    """Train until `spec.steps`, or until `stopping` is set; both save a checkpoint. Returns the position."""
    config = TrainConfig(spec, build, folder.store.url)
    try:
        with ExitStack() as stack:
            stack.enter_context(sole_writer(folder.store))
            position = folder.open(spec)
            folder.cut_log(position.step)
            shown.phase(f"starting {spec.workers} workers")
            workers = stack.enter_context(TrainWorkers(config, position.step))
            return TrainLoop(spec, folder, workers, position, shown).run(stopping)
    except RayActorError as error:
        what = str(error).splitlines()[0]
        raise ActorLost(
            f"a worker died ({what}); the last checkpoint is kept, run the same command again to resume"
        ) from error


class TrainLoop:
    """A training run on workers that have started."""

    def __init__(
        self, spec: TrainSpec, folder: RunFolder, workers: TrainWorkers, position: Position, shown: Progress
    ) -> None:
        self._spec, self._folder, self._workers, self._shown = spec, folder, workers, shown
        self._position, self._kept_step = position, position.step
        self._pace = Pace()
        self._saved = self._sampled = monotonic()
        self._interval = Interval()
        self._steps_per_call = 1

    def run(self, stopping: Event) -> Position:
        """Train until the last step, or until `stopping` is set."""
        self._shown.count("training", "steps", self._spec.steps, self._position.step)
        while self._position.step < self._spec.steps and not stopping.is_set():
            self._advance()
            if monotonic() - self._saved >= self._spec.checkpoint_every_s:
                self._keep()
            if self._spec.sample_every_s and monotonic() - self._sampled >= self._spec.sample_every_s:
                self._workers.sample()
                self._sampled = monotonic()
        if stopping.is_set():
            self._shown.say("Stopping after a checkpoint; a second Ctrl-C or signal stops without one.")
        if self._position.step > self._kept_step:
            self._keep()
        if self._position.step == self._spec.steps:
            self._workers.sample()
        return self._position

    def _advance(self) -> None:
        spec, done = self._spec, self._position.step
        until_log = spec.log_every - done % spec.log_every
        num_steps = min(self._steps_per_call, until_log, spec.steps - done)
        started = monotonic()
        losses = self._workers.train(num_steps)
        seconds = monotonic() - started
        self._steps_per_call = max(1, int(CALL_S * num_steps / max(seconds, 1e-6)))
        self._interval.add(losses, num_steps, seconds)
        self._position = Position(done + num_steps, self._position.seconds + seconds)
        self._pace.add(monotonic(), num_steps)
        speed = "" if self._pace.per_s is None else f"{self._spec.batch_size * self._pace.per_s:.3g} examples/s"
        left_s = self._pace.left_s(spec.steps - self._position.step)
        self._shown.update(self._position.step, speed=speed, left_s=left_s, **losses)
        if num_steps in (until_log, spec.steps - done):
            self._log()

    def _log(self) -> None:
        line = {
            "step": self._position.step,
            "seconds": round(self._position.seconds, 3),
            "lr": self._spec.lr_at(self._position.step - 1),
            **self._interval.losses(),
            "examples_per_s": round(self._spec.batch_size * self._interval.steps / self._interval.seconds, 3),
        }
        check_limits_are_logged(self._spec, line)
        self._folder.log(line)
        fields = "  ".join(f"{key} {value:.6g}" for key, value in line.items() if key != "step")
        self._shown.say(f"step {self._position.step}/{self._spec.steps}  {fields}")
        self._interval = Interval()

    def _keep(self) -> None:
        self._workers.save()
        self._folder.keep(self._spec, self._position)
        self._kept_step = self._position.step
        self._saved = monotonic()


class Interval:
    """Mean losses since the last line of the log."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self._sums: dict[str, float] = {}

    def add(self, losses: Mapping[str, float], steps: int, seconds: float) -> None:
        """Add the mean losses of `steps` steps."""
        self.steps += steps
        self.seconds += seconds
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * steps

    def losses(self) -> dict[str, float]:
        """The mean over all steps that were added."""
        return {name: total / self.steps for name, total in self._sums.items()}


def train_command(stage: str, config: str, output: str, options: TrainOptions, shown: Progress) -> None:
    """Train, or resume the run in `output`."""
    from longtake.pipeline.training.tasks import build_task, check_options

    data = (f"data={options.data}",) if options.data else ()
    device = () if options.device is None else (f"device={resolve_device(options.device, address=options.address)}",)
    spec = load_train_spec(config, (f"stage={stage}", *data, *device, *options.overrides))
    folder = fresh_folder(output) if options.fresh else RunFolder(output)
    check_folder(folder.path, output)
    position = folder.open(spec)
    check_options(spec)
    if position.step:
        shown.say(f"Resuming {folder.store.url}: {position.step} of {spec.steps} steps are done.")
    stopping = Event()
    with stop_on_signals(stopping.set):
        if position.step < spec.steps:
            if note := cluster_note(options.address):
                shown.say(f"{note}.")
            shown.phase("starting Ray")
            with joined(options.address):
                position = train(spec, folder, build_task, stopping, shown)
    shown.stop()
    shown.feedback.result(
        f"{folder.model_path}: {position.step} of {spec.steps} steps, {position.seconds:.0f} s of training",
        model=str(folder.model_path),
        step=position.step,
        steps=spec.steps,
        seconds=round(position.seconds, 2),
    )
    if (interrupted := received()) and position.step < spec.steps:
        raise interrupted
    if position.step == spec.steps:
        check_limits(spec, folder.last_line())
