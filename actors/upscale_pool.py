"""The pool of upscale workers: how segments are assigned, and how workers that die, hang or raise are replaced."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from longtake.actors.failures import cause_of, described, is_final
from longtake.actors.handles import ActorOptions, Handle, Ref, start_actor
from longtake.actors.policy import TICK_S, RetryPolicy, hung_after_s
from longtake.actors.pool_config import Timeouts
from longtake.actors.upscale_actor import UpscalerActor, UpscaleTask, WorkerConfig
from longtake.pipeline.errors import CapacityError, PoisonError
from longtake.pipeline.observe import Observer
from longtake.pipeline.upscaling.boundary import BoundaryError
from longtake.pipeline.upscaling.plan import FootageSegmentSpan, UpscalePlan

_STARTING = -1  # stands for a segment where a worker fails before it has one


@dataclass(frozen=True)
class UpscalePoolConfig:
    """The number of workers, what each asks Ray for, timeouts and retries.

    Args:
        cpus: of each worker; None for one per thread.
        retries: of a segment that fails.
    """

    count: int = 1
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    cpus: float | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def cpus_each(self) -> float:
        """CPUs that a worker asks Ray for."""
        return self.worker.threads if self.cpus is None else self.cpus

    @property
    def gpus_each(self) -> int:
        """GPUs that a worker asks Ray for."""
        return int(self.worker.device != "cpu")

    def start_actor(self, number: int, epoch: int) -> Handle:
        """Start a worker."""
        env = {"OMP_NUM_THREADS": str(self.worker.threads)}
        options = ActorOptions(self.cpus_each, self.gpus_each, env)
        return start_actor(UpscalerActor, options, number=number, epoch=epoch)


class UpscalePool:
    """Workers that are started when they are first needed and kept for the next film; a context manager."""

    def __init__(self, config: UpscalePoolConfig) -> None:
        self.config = config
        self._handles: dict[int, Handle] = {}
        self._epochs: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for number in list(self._handles):
            self.kill(number)

    @contextmanager
    def opened(self, task: UpscaleTask, observer: Observer, count: int | None = None) -> Iterator["UpscaleRun"]:
        """Work on one film with `count` workers; with all unless given."""
        run = UpscaleRun(self, task, observer, count or self.config.count)
        try:
            yield run
        finally:
            run.end()

    def worker(self, number: int) -> Handle:
        """The worker of that number, started if there is none."""
        if number not in self._handles:
            self._handles[number] = self.config.start_actor(number, self._epochs[number])
        return self._handles[number]

    def kill(self, number: int) -> None:
        """Kill a worker at once."""
        ray.kill(self._handles.pop(number))
        self._epochs[number] += 1

    def epoch(self, number: int) -> int:
        """How many workers of that number were killed before."""
        return self._epochs[number]


@dataclass
class _Slot:
    """A worker and its latest call on the film: to open it, or to make a segment."""

    handle: Handle
    call: Ref
    since: float
    is_ready: bool = False
    span: FootageSegmentSpan | None = None


class UpscaleRun:
    """Workers on one film.

    Args:
        task: what they work on.
        observer: receives an event for each worker that is ready or replaced, and for each segment.
        count: the number of workers.
    """

    def __init__(self, pool: UpscalePool, task: UpscaleTask, observer: Observer, count: int) -> None:
        self._pool, self._plan, self._observer = pool, task.plan, observer
        self._task_ref = ray.put(task)
        self._failures: Counter[int] = Counter()
        self._longest_s = 0.0
        self._slots: dict[int, _Slot] = {}
        for number in range(count):
            self._open(number)

    def make(self, spans: Iterable[FootageSegmentSpan], tick: Callable[[], None] = lambda: None) -> None:
        """Make `spans`, handed out in order, one at a time to each worker.

        Args:
            tick: called a few times a second; what it raises ends the work, and finished segments are kept.

        Raises:
            PoisonError: a segment failed too often.
            CapacityError: no worker could be started.
            LongtakeError: another try would fail too.
        """
        queue = _Queue(spans, self._plan)
        while not queue.is_done:
            for slot in self._slots.values():
                if slot.is_ready and slot.span is None:
                    self._hand_out(slot, queue.take())
            for number in self._answered():
                self._receive(number, queue)
            self._replace_hung(queue)
            tick()

    def boundary_error(self) -> BoundaryError | None:
        """What `upscaling.boundary.boundary_error` finds on a worker."""
        slot = next((slot for slot in self._slots.values() if slot.is_ready), self._slots[0])
        found: BoundaryError | None = ray.get(slot.handle.boundary_error.remote())
        return found

    def end(self) -> None:
        """Have idle workers release the film, and kill the others."""
        closing: dict[Ref, int] = {}
        for number, slot in self._slots.items():
            if slot.is_ready and slot.span is None:
                closing[slot.handle.close.remote()] = number
            else:
                self._pool.kill(number)
        if closing:
            timeout_s = self._pool.config.timeouts.heartbeat
            for call in ray.wait(list(closing), num_returns=len(closing), timeout=timeout_s)[1]:
                self._pool.kill(closing[call])

    def _open(self, number: int) -> None:
        self._until = time.monotonic() + self._pool.config.timeouts.start
        handle = self._pool.worker(number)
        self._slots[number] = _Slot(handle, handle.open.remote(self._task_ref), time.monotonic())

    def _hand_out(self, slot: _Slot, span: FootageSegmentSpan | None) -> None:
        if span is not None:
            slot.call, slot.span, slot.since = slot.handle.make.remote(span.index), span, time.monotonic()

    def _answered(self) -> list[int]:
        """Numbers of workers whose call is finished, waited for as long as a tick."""
        calls = {slot.call: n for n, slot in self._slots.items() if not slot.is_ready or slot.span is not None}
        if not ray.wait(list(calls), num_returns=1, timeout=TICK_S)[0]:
            if not any(slot.is_ready for slot in self._slots.values()) and time.monotonic() > self._until:
                raise self._too_small()
            return []
        return [calls[call] for call in ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]]

    def _receive(self, number: int, queue: "_Queue") -> None:
        slot = self._slots[number]
        try:
            answer = ray.get(slot.call)
        except RayError as error:
            self._failed(number, queue, error)
            return
        if slot.span is None:
            slot.is_ready, self._failures[_STARTING] = True, 0
            epoch = self._pool.epoch(number)
            self._observer.event("actor.ready", act="upscale", worker=number, epoch=epoch, pid=answer)
            return
        self._longest_s = max(self._longest_s, answer.seconds)
        queue.made(slot.span)
        slot.span = None
        self._observer.event("upscale.segment", worker=number, **answer.fields())

    def _failed(self, number: int, queue: "_Queue", error: RayError) -> None:
        """Have a segment made again after its worker died or raised; a dead worker is replaced."""
        if is_final(error):
            raise cause_of(error) from None
        raised = isinstance(error, RayTaskError) and not isinstance(error, RayActorError)
        reason = f"raised {described(error)}" if raised else "died"
        failures = self._count_failure(number, queue, reason, error)
        if not raised:
            self._replace(number, reason)
        time.sleep(self._pool.config.retries.wait_s(failures))
        self._open(number)

    def _count_failure(self, number: int, queue: "_Queue", reason: str, error: BaseException) -> int:
        """Count a failure of a worker's segment and put the segment back: its failures so far."""
        span = self._slots[number].span
        index, what = _STARTING, f"a worker {reason} before it was ready"
        if span is not None:
            queue.put_back(span)
            index = span.index
            what = f"segment {index}, frames {span.frames.start}..{span.frames.stop - 1}: a worker {reason}"
        self._failures[index] += 1
        failures = self._failures[index]
        if self._pool.config.retries.gives_up(failures):
            raise PoisonError(
                f"{what}, {failures} times now; what is finished is kept, and the same command resumes from there"
            ) from error
        return failures

    def _replace(self, number: int, reason: str) -> None:
        self._pool.kill(number)
        epoch = self._pool.epoch(number)
        self._observer.event("actor.replaced", act="upscale", worker=number, epoch=epoch, reason=reason)

    def _replace_hung(self, queue: "_Queue") -> None:
        deadline_s = hung_after_s(self._pool.config.timeouts.chunk, self._longest_s)
        for number, slot in list(self._slots.items()):
            busy_s = time.monotonic() - slot.since
            if slot.span is not None and busy_s > deadline_s:
                reason = f"was at it for {busy_s:.0f} s"
                self._count_failure(number, queue, reason, TimeoutError(reason))
                self._replace(number, reason)
                self._open(number)

    def _too_small(self) -> CapacityError:
        cluster, config = ray.cluster_resources(), self._pool.config
        return CapacityError(
            f"no worker started within {config.timeouts.start:g} s: each asks for {config.cpus_each:g} CPUs and"
            f" {config.gpus_each} GPUs, the cluster has {cluster.get('CPU', 0):g} and {cluster.get('GPU', 0):g}, which"
            " may be in use; free some"
        )


class _Queue:
    """Segments in order, each handed out once it can be made: in a handoff, once the segment before it is kept."""

    def __init__(self, spans: Iterable[FootageSegmentSpan], plan: UpscalePlan) -> None:
        self._rest: Iterator[FootageSegmentSpan] = iter(spans)
        self._plan = plan
        self._waiting: list[FootageSegmentSpan] = []
        self._open: set[int] = set()  # handed out or waiting
        self._exhausted = False

    @property
    def is_done(self) -> bool:
        """Whether all segments are made; draws a further one if none is open."""
        if not self._open:
            self._draw()
        return self._exhausted and not self._open

    def take(self) -> FootageSegmentSpan | None:
        """The first segment that can be made; None if none can."""
        ready = next((span for span in self._waiting if self._can_start(span)), None)
        while ready is None and not self._exhausted:
            drawn = self._draw()
            if drawn is not None and self._can_start(drawn):
                ready = drawn
        if ready is not None:
            self._waiting.remove(ready)
        return ready

    def put_back(self, span: FootageSegmentSpan) -> None:
        """Hand `span` out again, before all segments that come after it."""
        self._waiting = sorted([*self._waiting, span], key=lambda waiting: waiting.index)

    def made(self, span: FootageSegmentSpan) -> None:
        """Record that `span` is kept."""
        self._open.remove(span.index)

    def _draw(self) -> FootageSegmentSpan | None:
        span = next(self._rest, None)
        if span is None:
            self._exhausted = True
        else:
            self._waiting.append(span)
            self._open.add(span.index)
        return span

    def _can_start(self, span: FootageSegmentSpan) -> bool:
        before = self._plan.before(span)
        return not self._plan.spec.is_sequential or before is None or before.index not in self._open
