"""The pool of upscalers: who makes which segment, and what happens to whoever dies, wedges or fails."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from longtake.actors.pool_config import Timeouts
from longtake.actors.upscale_actor import UpscalerActor, UpscaleTask, WorkerConfig
from longtake.pipeline.errors import ActorLost, CapacityError, LongtakeError, PoisonError
from longtake.pipeline.observe import Observer
from longtake.pipeline.upscaling.boundary import BoundaryError
from longtake.pipeline.upscaling.plan import FootageSegmentSpan, UpscalePlan

FAILURES = 3
"""Failures of one segment that end the film."""

TICK_S = 0.25

_STARTING = -1  # stands for a segment where workers fail before they are given one

SLOWER = 10
"""A worker is wedged only when it takes so many times as long as any segment did."""


@dataclass(frozen=True)
class UpscalePoolConfig:
    """How many workers, what Ray gives each, and how long anybody is waited for.

    Args:
        cpus: of each worker; None for one for each thread.
    """

    count: int = 1
    tools: WorkerConfig = field(default_factory=WorkerConfig)
    cpus: float | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def cpus_each(self) -> float:
        """CPUs that a worker asks Ray for."""
        return self.tools.threads if self.cpus is None else self.cpus

    @property
    def gpus_each(self) -> int:
        """GPUs that a worker asks Ray for."""
        return int(self.tools.device != "cpu")

    def start_actor(self, number: int, epoch: int) -> ActorHandle:
        """Start a worker, which is not restarted in its place."""
        remote = ray.remote(num_cpus=self.cpus_each, num_gpus=self.gpus_each, max_restarts=0, max_task_retries=0)
        runtime_env = {"env_vars": {"OMP_NUM_THREADS": str(self.tools.threads)}}
        return remote(UpscalerActor).options(runtime_env=runtime_env).remote(number, epoch)


class UpscalePool:
    """Workers that stay from one film to the next, each started when it is first needed; a context manager."""

    def __init__(self, staff: UpscalePoolConfig) -> None:
        self.staff = staff
        self._handles: dict[int, ActorHandle] = {}
        self._epochs: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for number in list(self._handles):
            self.kill(number)

    @contextmanager
    def on(self, order: UpscaleTask, observer: Observer, count: int | None = None) -> Iterator["UpscaleRun"]:
        """Work on one film; `count` of the workers do, all unless told."""
        shift = UpscaleRun(self, order, observer, count or self.staff.count)
        try:
            yield shift
        finally:
            shift.end()

    def start_actor(self, number: int) -> ActorHandle:
        """Who has that number; somebody new where nobody has."""
        if number not in self._handles:
            self._handles[number] = self.staff.start_actor(number, self._epochs[number])
        return self._handles[number]

    def kill(self, number: int) -> None:
        """End a worker at once."""
        ray.kill(self._handles.pop(number))
        self._epochs[number] += 1

    def epoch(self, number: int) -> int:
        """How many have had that number before."""
        return self._epochs[number]


@dataclass
class _Slot:
    """A worker on the film at hand, and what it was asked last: to open the film, or to make a segment."""

    handle: ActorHandle
    asked: ObjectRef
    since: float
    is_ready: bool = False
    span: FootageSegmentSpan | None = None


class UpscaleRun:
    """Workers on one film.

    Args:
        order: what they work on.
        observer: hears of workers that stand ready and are replaced, and of every segment.
        count: how many of them.
    """

    def __init__(self, workers: UpscalePool, order: UpscaleTask, observer: Observer, count: int) -> None:
        self._workers, self._order, self._observer = workers, order, observer
        self._order_ref = ray.put(order)
        self._failures: Counter[int] = Counter()
        self._longest_s = 0.0
        self._seats: dict[int, _Slot] = {}
        for number in range(count):
            self._open(number)

    def make(self, spans: Iterable[FootageSegmentSpan], tick: Callable[[], None] = lambda: None) -> None:
        """Have `spans` made, handed out in order, one at a time to a worker.

        Args:
            beat: called a few times a second; what it raises ends the work, with what is finished kept.

        Raises:
            PoisonError: a segment failed `FAILURES` times.
            CapacityError: no worker could be started.
            LongtakeError: what no further try can mend.
        """
        queue = _Queue(spans, self._order.plan)
        while not queue.is_done:
            for seat in self._seats.values():
                if seat.is_ready and seat.span is None:
                    self._hand_out(seat, queue.take())
            for number in self._answered():
                self._take_in(number, queue)
            self._look_for_wedged(queue)
            tick()

    def boundary_error(self) -> BoundaryError | None:
        """What `boundary_error` finds on a worker."""
        seat = next((seat for seat in self._seats.values() if seat.is_ready), self._seats[0])
        found: BoundaryError | None = ray.get(seat.handle.boundary_error.remote())
        return found

    def end(self) -> None:
        """Have everybody let go of the film; whoever is at work still, or not yet, is dismissed."""
        closing = {}
        for number, seat in self._seats.items():
            if seat.is_ready and seat.span is None:
                closing[seat.handle.close.remote()] = number
            else:
                self._workers.kill(number)
        if closing:
            timeouts = self._workers.staff.timeouts.heartbeat
            for ref in ray.wait(list(closing), num_returns=len(closing), timeout=timeouts)[1]:
                self._workers.kill(closing[ref])

    def _open(self, number: int) -> None:
        self._until = time.monotonic() + self._workers.staff.timeouts.start
        handle = self._workers.start_actor(number)
        self._seats[number] = _Slot(handle, handle.open.remote(self._order_ref), time.monotonic())

    def _hand_out(self, seat: _Slot, span: FootageSegmentSpan | None) -> None:
        if span is not None:
            seat.asked, seat.span, seat.since = seat.handle.make.remote(span.index), span, time.monotonic()

    def _answered(self) -> list[int]:
        """Numbers of workers that have an answer, waited for as long as a beat."""
        asked = {seat.asked: n for n, seat in self._seats.items() if not seat.is_ready or seat.span is not None}
        if not ray.wait(list(asked), num_returns=1, timeout=TICK_S)[0]:
            if not any(seat.is_ready for seat in self._seats.values()) and time.monotonic() > self._until:
                raise self._no_room()
            return []
        return [asked[ref] for ref in ray.wait(list(asked), num_returns=len(asked), timeout=0)[0]]

    def _take_in(self, number: int, queue: "_Queue") -> None:
        seat = self._seats[number]
        try:
            answer = ray.get(seat.asked)
        except RayError as error:
            self._failed(number, queue, error)
            return
        if seat.span is None:
            seat.is_ready, self._failures[_STARTING] = True, 0
            epoch = self._workers.epoch(number)
            self._observer.event("actor.ready", act="upscale", worker=number, epoch=epoch, pid=answer)
            return
        self._longest_s = max(self._longest_s, answer.seconds)
        queue.made(seat.span)
        seat.span = None
        self._observer.event("upscale.segment", worker=number, **answer.fields())

    def _failed(self, number: int, queue: "_Queue", error: RayError) -> None:
        """A worker died or raised: its segment is tried again, and a dead one's number is given to another."""
        cause = getattr(error, "cause", error)
        if isinstance(cause, LongtakeError) and not isinstance(cause, ActorLost):
            raise cause from None
        raised = isinstance(error, RayTaskError) and not isinstance(error, RayActorError)
        reason = f"raised {type(cause).__name__}: {' '.join(str(cause).split())[:500]}" if raised else "died"
        failures = self._blame(number, queue, reason, error)
        if not raised:
            self._replace(number, reason)
        time.sleep(self._workers.staff.timeouts.back_off_after(failures))
        self._open(number)

    def _blame(self, number: int, queue: "_Queue", reason: str, error: BaseException) -> int:
        """Count a failure of what a worker was at, and put that back; how often it has failed by now."""
        span = self._seats[number].span
        index, what = _STARTING, f"a worker {reason} before it stood ready"
        if span is not None:
            queue.put_back(span)
            index = span.index
            what = f"segment {index}, frames {span.frames.start}..{span.frames.stop - 1}: a worker {reason}"
        self._failures[index] += 1
        if self._failures[index] == FAILURES:
            raise PoisonError(
                f"{what}, {FAILURES} times now; what is finished is kept, the same command goes on there"
            ) from error
        return self._failures[index]

    def _replace(self, number: int, reason: str) -> None:
        self._workers.kill(number)
        epoch = self._workers.epoch(number)
        self._observer.event("actor.replaced", act="upscale", worker=number, epoch=epoch, reason=reason)

    def _look_for_wedged(self, queue: "_Queue") -> None:
        deadline_s = max(self._workers.staff.timeouts.chunk, SLOWER * self._longest_s)
        for number, seat in list(self._seats.items()):
            busy_s = time.monotonic() - seat.since
            if seat.span is not None and busy_s > deadline_s:
                reason = f"was at it for {busy_s:.0f} s"
                self._blame(number, queue, reason, TimeoutError(reason))
                self._replace(number, reason)
                self._open(number)

    def _no_room(self) -> CapacityError:
        there, staff = ray.cluster_resources(), self._workers.staff
        return CapacityError(
            f"no worker started within {staff.timeouts.start:g} s: each asks for {staff.cpus_each:g} CPUs and"
            f" {staff.gpus_each} GPUs, the cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}, maybe"
            " taken; free some"
        )


class _Queue:
    """Segments in order, each given out when it can be made: in a handoff, once the one before it is kept."""

    def __init__(self, spans: Iterable[FootageSegmentSpan], plan: UpscalePlan) -> None:
        self._rest: Iterator[FootageSegmentSpan] = iter(spans)
        self._plan = plan
        self._waiting: list[FootageSegmentSpan] = []
        self._open: set[int] = set()  # given out, or waiting
        self._exhausted = False

    @property
    def is_done(self) -> bool:
        """Whether everything is made; looks for more if nothing is left."""
        if not self._open:
            self._draw()
        return self._exhausted and not self._open

    def take(self) -> FootageSegmentSpan | None:
        """The first segment that can be made; None while there is none."""
        ready = next((span for span in self._waiting if self._can_start(span)), None)
        while ready is None and not self._exhausted:
            drawn = self._draw()
            if drawn is not None and self._can_start(drawn):
                ready = drawn
        if ready is not None:
            self._waiting.remove(ready)
        return ready

    def put_back(self, span: FootageSegmentSpan) -> None:
        """Give `span` out again, before all others that come after it."""
        self._waiting = sorted([*self._waiting, span], key=lambda waiting: waiting.index)

    def made(self, span: FootageSegmentSpan) -> None:
        """`span` is kept."""
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
