"""The company: all actors that render takes, one take after another, and gone when it is over."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from longtake.actors.actor_group import ActorGroup, start_actor
from longtake.actors.draining import leaving_nodes
from longtake.actors.event_log_actor import EventLogActor, RemoteObserver
from longtake.actors.gang import Gang
from longtake.actors.heartbeat import heartbeats_from_task
from longtake.actors.pool_config import PoolConfig
from longtake.actors.stage_actor import PublisherActor, StageActor, TakeConfig
from longtake.pipeline.errors import ActorLost, CapacityError, LongtakeError
from longtake.pipeline.observe import Observer
from longtake.pipeline.spec import ACT_NAMES
from longtake.pipeline.stages.publish import Film

SLOWER = 10
"""An act is wedged only when it takes so many times as long as it ever did."""


class AsTheyAre:
    """A post that nobody has to hold: what comes in goes out."""

    def remote(self, value: ObjectRef) -> ObjectRef:
        """`value`."""
        return value


AS_THEY_ARE = AsTheyAre()


class ActorPool:
    """A post for every act of the crew, such as `embed` or `publish`, each with `.remote(...)`, and a scribe. Actors
    are started when a take first needs them, and stay for the next one."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._groups: dict[str, ActorGroup] = {}
        self._epochs = dict.fromkeys(config.groups, 0)
        self._order: TakeConfig | None = None
        self._opened: set[str] = set()
        self._look_again = 0.0
        self._longest_s = 0.0
        self._runtime_env = {
            "env_vars": {
                "OMP_NUM_THREADS": str(config.threads),
                "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
            }
        }

    def __enter__(self) -> Self:
        self.event_log = ray.remote(EventLogActor).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for group in self._groups.values():
            group.kill()
        self._groups.clear()
        ray.kill(self.event_log)

    def __getattr__(self, act: str) -> "ActorGroup | AsTheyAre":
        """The post that holds `act`; films that are not upscaled need nobody for that."""
        if act not in ACT_NAMES:
            raise AttributeError(act)
        return AS_THEY_ARE if act == "upscale" and act not in self.config.groups else self._groups[act]

    @property
    def gangs(self) -> list[ActorGroup]:
        """Everybody who denoises."""
        return [self._groups[name] for name in self.config.gangs]

    @contextmanager
    def at(self, order: TakeConfig) -> Iterator[None]:
        """Work on one take. Raises `CapacityError` where the cluster has no room, and what the actors raised."""
        self._order = order
        try:
            self.fill()
            # As a plain string: torch's own type would have the scribe import torch while the first chunk is denoised.
            self.event("road.start", road="ray", torch=str(torch.__version__), threads=order.threads)
            self._open(self._groups.values())
            yield
        except BaseException as error:
            cause = getattr(error, "cause", error)  # without the stack trace that Ray sends along
            self.event("road.failed", error=type(cause).__name__, message=str(cause))
            raise
        finally:
            self._order = None
            self._opened.clear()
            self._let_go()

    def fill(self) -> None:
        """Start whoever is missing, again and again while there is time."""
        until, failures = time.monotonic() + self.config.timeouts.start, 0
        while vacant := [act for act in self.config.groups if act not in self._groups]:
            started: dict[str, ActorGroup] = {}
            try:
                for act in vacant:
                    started[act] = self._hire(act)
                refs = [ref for group in started.values() for ref in group.start()]
                ray.get(refs, timeout=max(1.0, until - time.monotonic()))
            except BaseException as error:
                for group in started.values():
                    group.kill()
                if isinstance(error, GetTimeoutError):
                    raise self._no_room() from None
                failures += 1
                back_off_s = self.config.timeouts.back_off_after(failures)
                if not isinstance(error, RayError) or time.monotonic() + back_off_s > until:
                    raise
                time.sleep(back_off_s)
                continue
            self._groups.update(started)

    def idle(self) -> list[ObjectRef]:
        """References that are there once everybody has done what they were asked, or is gone."""
        return [ref for group in self._groups.values() for ref in group.idle()]

    def lost(self, *, overdue: bool = False) -> dict[str, str]:
        """Posts that must be replaced, with the reason.

        Args:
            overdue: something takes too long, so ask everybody how they are, which takes up to `Timeouts.heartbeat`.
        """
        lost = {act: "died" for act, group in self._groups.items() if group.died()}
        leaving = self._leaving()
        if not overdue and not leaving:
            return lost
        timeouts = self.config.timeouts
        asked = {act: group.actors for act, group in self._groups.items() if act not in lost}
        for act, heartbeats in heartbeats_from_task(asked, timeouts.heartbeat, timeouts.start).items():
            if heartbeats is None:
                lost[act] = f"gave no answer for {timeouts.heartbeat:g} s"
            elif (busy_s := max(heartbeat.busy_s for heartbeat in heartbeats)) > self.deadline_s:
                lost[act] = f"was at one chunk for {busy_s:.0f} s"
            elif leaving.intersection(heartbeat.node for heartbeat in heartbeats):
                lost[act] = "its node is being drained"
        return lost

    @property
    def deadline_s(self) -> float:
        """Seconds after which an act that is still at one chunk is wedged."""
        return max(self.config.timeouts.chunk, SLOWER * self._longest_s)

    def replace(self, lost: Mapping[str, str]) -> None:
        """Start others in place of lost posts."""
        for act, reason in lost.items():
            self._groups.pop(act).kill()
            self._opened.discard(act)
            self._epochs[act] += 1
            self.event("actor.replaced", act=act, epoch=self._epochs[act], reason=reason)
        self.fill()

    def reopen(self) -> None:
        """Have whoever is new, or has raised, build its act for the take: it stands where the journal ends."""
        assert self._order is not None, "only a take can lose somebody"
        anew = [group for act, group in self._groups.items() if act not in self._opened or self._raised(group)]
        self._open(anew)

    def position(self) -> int:
        """The chunk that the publisher's film goes on with."""
        position: int = self._get([self.publish.actors[0].position.remote()])[0]
        return position

    def pids(self) -> list[int]:
        """Processes of the actors, each on its node; the scribe's is not among them."""
        heartbeats = [group.heartbeats(self.config.timeouts.heartbeat) or [] for group in self._groups.values()]
        return [heartbeat.pid for answers in heartbeats for heartbeat in answers]

    def finish(self) -> ObjectRef:
        """Finish the film, once everything is published: a reference to it."""
        film: ObjectRef[Film] = self.publish.actors[0].finish.remote()
        return film

    def event(self, name: str, **fields: Any) -> None:
        """Have something written into the event log of the take at hand."""
        if self._order is not None:
            RemoteObserver(self.event_log, self._order.url).event(name, **fields)

    def meter(self, bytes_in_flight: int) -> None:
        """Have the metrics say what the chunks in flight weigh."""
        self.event_log.in_flight.remote(bytes_in_flight)

    def report(self, observer: Observer) -> None:
        """Tell `observer` what has happened since the last time."""
        for name, fields in self._event_log(self.event_log.news.remote):
            if name.endswith(".chunk"):
                self._longest_s = max(self._longest_s, fields["seconds"])
            observer.event(name, **fields)

    def _hire(self, act: str) -> ActorGroup:
        epoch = self._epochs[act]
        if act in self.config.gangs:
            bundles = [self.config.resources.bundle("denoise")] * self.config.resources.ranks
            return Gang(act, self.event_log, epoch, bundles, self.config.timeouts.exchange, self._runtime_env)
        actor = PublisherActor if act == "publish" else StageActor
        room = self.config.resources.bundle(act)
        handle = start_actor(
            *(actor, act, self.event_log, epoch),
            cpus=room["CPU"],
            gpus=room.get("GPU", 0.0),
            runtime_env=self._runtime_env,
        )
        return ActorGroup(act, [handle], num_returns=2 if act == "decode" else 1)

    def _open(self, groups: Iterable[ActorGroup]) -> None:
        assert self._order is not None, "posts are opened for a take"
        groups = list(groups)
        self._opened.difference_update(group.name for group in groups)
        self._get([ref for group in groups for ref in group.open(self._order)])
        self._opened.update(group.name for group in groups)
        for group in groups:
            heartbeats = group.heartbeats(self.config.timeouts.heartbeat) or []
            where = {
                "pids": [heartbeat.pid for heartbeat in heartbeats],
                "nodes": [heartbeat.node for heartbeat in heartbeats],
            }
            self.event("actor.ready", act=group.name, epoch=self._epochs[group.name], **where)

    def _no_room(self) -> CapacityError:
        wanted, there = self.config.resources, ray.cluster_resources()
        asked, had, cure = f"{wanted.num_cpus:g} CPUs", f"{there.get('CPU', 0):g}", "use fewer --ranks or --threads"
        if wanted.num_gpus:
            asked += f" and {wanted.num_gpus:g} GPUs"
            had += f" and {there.get('GPU', 0):g}"
            cure += ", or --device cpu"
        return CapacityError(
            f"the actors did not start within {self.config.timeouts.start:g} s: they ask for {asked}, the cluster has"
            f" {had}; free some, or {cure}"
        )

    def _raised(self, group: ActorGroup) -> bool:
        heartbeats = group.heartbeats(self.config.timeouts.heartbeat)
        return heartbeats is None or any(heartbeat.failed for heartbeat in heartbeats)

    def _leaving(self) -> set[str]:
        """Nodes that Ray is about to take away, asked every few seconds."""
        if time.monotonic() < self._look_again:
            return set()
        self._look_again = time.monotonic() + 5.0
        return leaving_nodes()

    def _let_go(self) -> None:
        """Everybody lets go of the take; whoever does not, within a pulse, is dismissed."""
        closing = {act: group.close() for act, group in self._groups.items()}
        until = time.monotonic() + self.config.timeouts.heartbeat
        for act, refs in closing.items():
            try:
                ray.get(refs, timeout=max(0.0, until - time.monotonic()))
            except (RayError, LongtakeError, OSError):
                self._groups.pop(act).kill()
        self._event_log(self.event_log.close.remote)

    def _get(self, refs: list[ObjectRef]) -> list[Any]:
        """Values of calls that take no longer than a start. Raises `ActorLost` where they do."""
        try:
            values: list[Any] = ray.get(refs, timeout=self.config.timeouts.start)
        except GetTimeoutError:
            raise ActorLost(f"actors gave no answer for {self.config.timeouts.start:g} s") from None
        except RayTaskError as error:
            if isinstance(error.cause, LongtakeError):
                raise error.cause from None
            raise
        return values

    def _event_log(self, call: Callable[[], ObjectRef]) -> Any:
        """The scribe's answer; one that is wedged is ended, and starts again."""
        try:
            return ray.get(call(), timeout=self.config.timeouts.heartbeat)
        except GetTimeoutError:
            ray.kill(self.event_log, no_restart=False)
            return ray.get(call(), timeout=self.config.timeouts.start)
