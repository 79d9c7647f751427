"""The actor pool: all actors that render takes, one take after another."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from longtake.actors.actor_group import ActorGroup, PassThrough, PublisherGroup
from longtake.actors.capacity import lack_until_it_grows
from longtake.actors.draining import draining_nodes
from longtake.actors.event_log_actor import RemoteObserver, start_event_log
from longtake.actors.failures import StartAttempts, cause_of
from longtake.actors.gang import Gang
from longtake.actors.handles import ActorOptions, Handle, Ref, start_actor
from longtake.actors.heartbeat import heartbeats_from_task
from longtake.actors.nodes import may_grow
from longtake.actors.policy import hung_after_s
from longtake.actors.pool_config import PoolConfig, actor_env
from longtake.actors.stage_actor import CONTROL_GROUP, PublisherActor, StageActor, TakeConfig
from longtake.pipeline.errors import ActorLost, CapacityError, LongtakeError
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.registry import STAGES
from longtake.pipeline.stages.publish import Film

_DRAINING_CHECK_S = 5.0
_TICK_S = 1.0


class ActorPool:
    """An actor group for each stage, and the event log actor; a context manager.

    Actors are started when a take first needs them, and kept for the next take.
    """

    event_log: Handle

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.observer: Observer = SILENT
        """Is notified while actors start, which blocks; these events go to no log."""
        self.tick: Callable[[], None] = lambda: None
        """Is called about once a second while actors start and load. What it raises ends that, and is raised."""
        self._groups: dict[str, ActorGroup] = {}
        self._epochs = dict.fromkeys(config.groups, 0)
        self._take: TakeConfig | None = None
        self._opened: set[str] = set()
        self._next_draining_check = 0.0
        self._longest_s = 0.0
        self._env = actor_env(config.threads)

    def __enter__(self) -> Self:
        self.event_log = start_event_log(self._env)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for group in self._groups.values():
            group.kill()
        self._groups.clear()
        ray.kill(self.event_log)

    def stage(self, name: str) -> ActorGroup:
        """The actors of a stage; of the first gang for `denoise`. A stage without actors returns what it is given."""
        return self._groups[name] if name in self.config.acts else PassThrough(name)

    @property
    def gangs(self) -> list[ActorGroup]:
        """All gangs that denoise."""
        return [self._groups[name] for name in self.config.gangs]

    @property
    def publish(self) -> PublisherGroup:
        """Segment -> the film, growing."""
        group = self._groups["publish"]
        assert isinstance(group, PublisherGroup)
        return group

    @contextmanager
    def opened(self, take: TakeConfig, tick: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Work on one take, with its `tick`. Raises `CapacityError` where the cluster is too small, and what the actors
        and `tick` raised."""
        self._take, before, self.tick = take, self.tick, tick
        try:
            self.start()
            # As a plain string: torch's own type would make the event log actor import torch during the first chunk.
            self.event("road.start", road="ray", torch=str(torch.__version__), threads=take.threads)
            self._open(self._groups.values())
            yield
        except BaseException as error:
            cause = cause_of(error)
            self.event("road.failed", error=type(cause).__name__, message=str(cause))
            raise
        finally:
            self._take, self.tick = None, before
            self._opened.clear()
            self._close()

    def start(self) -> None:
        """Start the actor groups that are missing, with retries while there is time.

        Raises:
            CapacityError: the actors did not start in time.
            StartError: they failed twice in the same way.
            RayError: they failed in several ways until there was no time left.
        """
        timeouts = self.config.timeouts
        limit_s = timeouts.start + (timeouts.nodes if may_grow(ray.nodes()) else 0)
        attempts = StartAttempts(limit_s, self.config.retries)
        while missing := [name for name in self.config.groups if name not in self._groups]:
            started: dict[str, ActorGroup] = {}
            self.observer.event("actors.start", actors=self.config.num_actors(missing))
            try:
                for name in missing:
                    started[name] = self._start_group(name)
                refs = [ref for group in started.values() for ref in group.start()]
                self._await(refs, attempts.until)
            except BaseException as error:
                for group in started.values():
                    group.kill()
                if isinstance(error, GetTimeoutError):
                    raise self._too_small(limit_s) from None
                if not isinstance(error, RayError):
                    raise
                attempts.failed(error)
            else:
                self._groups.update(started)

    def idle(self) -> list[Ref]:
        """References that are ready once every actor has finished its calls or is dead."""
        return [ref for group in self._groups.values() for ref in group.idle()]

    def lost(self, *, overdue: bool = False) -> dict[str, str]:
        """Actor groups that must be replaced, with the reason.

        Args:
            overdue: a chunk takes too long, so probe all actors, which takes up to `Timeouts.heartbeat`.
        """
        lost = {name: "died" for name, group in self._groups.items() if group.died()}
        draining = self._draining()
        if not overdue and not draining:
            return lost
        timeouts = self.config.timeouts
        probed = {name: group.actors for name, group in self._groups.items() if name not in lost}
        answers = heartbeats_from_task(probed, timeouts.heartbeat, timeouts.start, self._env)
        for name, heartbeats in answers.items():
            if heartbeats is None:
                lost[name] = f"gave no answer for {timeouts.heartbeat:g} s"
            elif (busy_s := max(heartbeat.busy_s for heartbeat in heartbeats)) > self.deadline_s:
                lost[name] = f"was at one chunk for {busy_s:.0f} s"
            elif draining.intersection(heartbeat.node for heartbeat in heartbeats):
                lost[name] = "its node is being drained"
        return lost

    @property
    def deadline_s(self) -> float:
        """Seconds at one chunk after which an actor counts as hung."""
        return hung_after_s(self.config.timeouts.chunk, self._longest_s)

    def replace(self, lost: Mapping[str, str]) -> None:
        """Replace lost actor groups, given with the reason."""
        for name, reason in lost.items():
            self._groups.pop(name).kill()
            self._opened.discard(name)
            self._epochs[name] += 1
            self.event("actor.replaced", act=name, epoch=self._epochs[name], reason=reason)
        self.start()

    def reopen(self) -> None:
        """Build the stages of actors that are new or have raised, in the state in which the journal ends."""
        self._open([group for name, group in self._groups.items() if name not in self._opened or self._raised(group)])

    def position(self) -> int:
        """The index of the first chunk that the publisher's film lacks."""
        position: int = self._get([self.publish.position()])[0]
        return position

    def pids(self) -> list[int]:
        """Process ids of the actors, each on its node; without the event log actor's."""
        heartbeats = [group.heartbeats(self.config.timeouts.heartbeat) or [] for group in self._groups.values()]
        return [heartbeat.pid for answers in heartbeats for heartbeat in answers]

    def finish(self) -> "ray.ObjectRef[Film]":
        """Finish the film, once every chunk is published: a reference to it."""
        return self.publish.finish()

    def event(self, name: str, **fields: Any) -> None:
        """Write an event into the event log of the open take."""
        if self._take is not None:
            RemoteObserver(self.event_log, self._take.url).event(name, **fields)

    def meter(self, bytes_in_flight: int) -> None:
        """Set the metric of the bytes in flight."""
        self.event_log.in_flight.remote(bytes_in_flight)

    def report(self, observer: Observer) -> None:
        """Send `observer` the events since the last call."""
        for name, fields in self._ask_event_log(self.event_log.news.remote):
            if name.endswith(".chunk"):
                self._longest_s = max(self._longest_s, fields["seconds"])
            observer.event(name, **fields)

    def _start_group(self, name: str) -> ActorGroup:
        resources, epoch = self.config.resources, self._epochs[name]
        if name in self.config.gangs:
            bundles = [resources.bundle("denoise")] * resources.ranks
            return Gang(name, self.event_log, epoch, bundles, self.config.timeouts.exchange, self._env)
        bundle = resources.bundle(name)
        handle = start_actor(
            PublisherActor if name == "publish" else StageActor,
            ActorOptions(bundle["CPU"], bundle.get("GPU", 0.0), self._env, concurrency_groups=CONTROL_GROUP),
            act=name,
            event_log=self.event_log,
            epoch=epoch,
        )
        if name == "publish":
            return PublisherGroup(name, [handle])
        return ActorGroup(name, [handle], num_returns=STAGES[name].num_returns)

    def _open(self, groups: Iterable[ActorGroup]) -> None:
        assert self._take is not None, "stages are built for a take"
        take, groups = self._take, list(groups)
        self.observer.event("actors.load", actors=self.config.num_actors(group.name for group in groups))
        self._opened.difference_update(group.name for group in groups)
        self._get([ref for group in groups for ref in group.open(take)])
        self._opened.update(group.name for group in groups)
        for group in groups:
            heartbeats = group.heartbeats(self.config.timeouts.heartbeat) or []
            where = {
                "pids": [heartbeat.pid for heartbeat in heartbeats],
                "nodes": [heartbeat.node for heartbeat in heartbeats],
            }
            self.event("actor.ready", act=group.name, epoch=self._epochs[group.name], **where)

    def _await(self, refs: list[Ref], until: float) -> None:
        """Wait for actors to start, and say what the cluster lacks meanwhile. Raises what `ray.get` raises."""
        told = None
        while not self._ready(refs, until):
            lack = lack_until_it_grows(self.config.resources)
            if lack is not None and lack != told:
                self.observer.event("cluster.wait", reason=lack)
            told = lack

    def _ready(self, refs: list[Ref], until: float) -> bool:
        """Whether all of `refs` are ready within a tick. Raises `GetTimeoutError` after `until`, and their errors."""
        self.tick()
        is_last = until - time.monotonic() <= _TICK_S
        try:
            ray.get(refs, timeout=_TICK_S)
        except GetTimeoutError:
            if is_last:
                raise
            return False
        return True

    def _too_small(self, limit_s: float) -> CapacityError:
        wanted, cluster = self.config.resources, ray.cluster_resources()
        asked, has, fix = f"{wanted.num_cpus:g} CPUs", f"{cluster.get('CPU', 0):g}", "use fewer --ranks or --threads"
        if wanted.num_gpus:
            asked += f" and {wanted.num_gpus:g} GPUs"
            has += f" and {cluster.get('GPU', 0):g}"
            fix += ", or --device cpu"
        return CapacityError(
            f"the actors did not start within {limit_s:g} s: they ask for {asked}, the cluster has"
            f" {has}; free some, or {fix}"
        )

    def _raised(self, group: ActorGroup) -> bool:
        heartbeats = group.heartbeats(self.config.timeouts.heartbeat)
        return heartbeats is None or any(heartbeat.failed for heartbeat in heartbeats)

    def _draining(self) -> set[str]:
        """Nodes that Ray is draining, asked for every few seconds; empty in between."""
        if time.monotonic() < self._next_draining_check:
            return set()
        self._next_draining_check = time.monotonic() + _DRAINING_CHECK_S
        return draining_nodes()

    def _close(self) -> None:
        """Close the take on all actors; kill those that do not answer within the heartbeat timeout."""
        closing = {name: group.close() for name, group in self._groups.items()}
        until = time.monotonic() + self.config.timeouts.heartbeat
        for name, refs in closing.items():
            try:
                ray.get(refs, timeout=max(0.0, until - time.monotonic()))
            except (RayError, LongtakeError, OSError):
                self._groups.pop(name).kill()
        self._ask_event_log(self.event_log.close.remote)

    def _get(self, refs: list[Ref]) -> list[Any]:
        """Values of calls that take no longer than a start. Raises `ActorLost` where they do."""
        until = time.monotonic() + self.config.timeouts.start
        try:
            while not self._ready(refs, until):
                pass
            values: list[Any] = ray.get(refs)
        except GetTimeoutError:
            raise ActorLost(f"actors gave no answer for {self.config.timeouts.start:g} s") from None
        except RayTaskError as error:
            cause = cause_of(error)
            if isinstance(cause, LongtakeError):
                raise cause from None
            raise
        return values

    def _ask_event_log(self, call: Callable[[], Ref]) -> Any:
        """The event log actor's answer; if it hangs, it is killed and Ray restarts it."""
        try:
            return ray.get(call(), timeout=self.config.timeouts.heartbeat)
        except GetTimeoutError:
            ray.kill(self.event_log, no_restart=False)
            return ray.get(call(), timeout=self.config.timeouts.start)
