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

from actors.crew import Crew
from actors.gang import Gang
from actors.notices import leaving_nodes
from actors.post import Post, hire
from actors.pulse import take_pulses_apart
from actors.scribe import RemoteObserver, Scribe
from actors.stage import Order, PublisherActor, StageActor
from pipeline.errors import ActorLost, CapacityError, LongtakeError
from pipeline.observe import Observer
from pipeline.spec import ACTS
from pipeline.stages.publish import Film

SLOWER = 10
"""An act is wedged only when it takes so many times as long as it ever did."""


class AsTheyAre:
    """A post that nobody has to hold: what comes in goes out."""

    def remote(self, value: ObjectRef) -> ObjectRef:
        """`value`."""
        return value


AS_THEY_ARE = AsTheyAre()


class Company:
    """A post for every act of the crew, such as `embed` or `publish`, each with `.remote(...)`, and a scribe. Actors
    are started when a take first needs them, and stay for the next one."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._posts: dict[str, Post] = {}
        self._epochs = dict.fromkeys(crew.posts, 0)
        self._order: Order | None = None
        self._opened: set[str] = set()
        self._look_again = 0.0
        self._longest_s = 0.0
        self._runtime_env = {
            "env_vars": {
                "OMP_NUM_THREADS": str(crew.threads),
                "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
            }
        }

    def __enter__(self) -> Self:
        self.scribe = ray.remote(Scribe).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for post in self._posts.values():
            post.dismiss()
        self._posts.clear()
        ray.kill(self.scribe)

    def __getattr__(self, act: str) -> "Post | AsTheyAre":
        """The post that holds `act`; films that are not upscaled need nobody for that."""
        if act not in ACTS:
            raise AttributeError(act)
        return AS_THEY_ARE if act == "upscale" and act not in self.crew.posts else self._posts[act]

    @property
    def gangs(self) -> list[Post]:
        """Everybody who denoises."""
        return [self._posts[name] for name in self.crew.gangs]

    @contextmanager
    def at(self, order: Order) -> Iterator[None]:
        """Work on one take. Raises `CapacityError` where the cluster has no room, and what the actors raised."""
        self._order = order
        try:
            self.fill()
            # As a plain string: torch's own type would have the scribe import torch while the first chunk is denoised.
            self.event("road.start", road="ray", torch=str(torch.__version__), threads=order.threads)
            self._open(self._posts.values())
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
        until, failures = time.monotonic() + self.crew.patience.start, 0
        while vacant := [act for act in self.crew.posts if act not in self._posts]:
            started: dict[str, Post] = {}
            try:
                for act in vacant:
                    started[act] = self._hire(act)
                refs = [ref for post in started.values() for ref in post.start()]
                ray.get(refs, timeout=max(1.0, until - time.monotonic()))
            except BaseException as error:
                for post in started.values():
                    post.dismiss()
                if isinstance(error, GetTimeoutError):
                    raise self._no_room() from None
                failures += 1
                back_off_s = self.crew.patience.back_off_after(failures)
                if not isinstance(error, RayError) or time.monotonic() + back_off_s > until:
                    raise
                time.sleep(back_off_s)
                continue
            self._posts.update(started)

    def idle(self) -> list[ObjectRef]:
        """References that are there once everybody has done what they were asked, or is gone."""
        return [ref for post in self._posts.values() for ref in post.idle()]

    def lost(self, *, overdue: bool = False) -> dict[str, str]:
        """Posts that must be replaced, with the reason.

        Args:
            overdue: something takes too long, so ask everybody how they are, which takes up to `Patience.pulse`.
        """
        lost = {act: "died" for act, post in self._posts.items() if post.died()}
        leaving = self._leaving()
        if not overdue and not leaving:
            return lost
        patience = self.crew.patience
        asked = {act: post.actors for act, post in self._posts.items() if act not in lost}
        for act, pulses in take_pulses_apart(asked, patience.pulse, patience.start).items():
            if pulses is None:
                lost[act] = f"gave no answer for {patience.pulse:g} s"
            elif (busy_s := max(pulse.busy_s for pulse in pulses)) > self.deadline_s:
                lost[act] = f"was at one chunk for {busy_s:.0f} s"
            elif leaving.intersection(pulse.node for pulse in pulses):
                lost[act] = "its node is being drained"
        return lost

    @property
    def deadline_s(self) -> float:
        """Seconds after which an act that is still at one chunk is wedged."""
        return max(self.crew.patience.chunk, SLOWER * self._longest_s)

    def replace(self, lost: Mapping[str, str]) -> None:
        """Start others in place of lost posts."""
        for act, reason in lost.items():
            self._posts.pop(act).dismiss()
            self._opened.discard(act)
            self._epochs[act] += 1
            self.event("actor.replaced", act=act, epoch=self._epochs[act], reason=reason)
        self.fill()

    def reopen(self) -> None:
        """Have whoever is new, or has raised, build its act for the take: it stands where the journal ends."""
        assert self._order is not None, "only a take can lose somebody"
        anew = [post for act, post in self._posts.items() if act not in self._opened or self._raised(post)]
        self._open(anew)

    def position(self) -> int:
        """The chunk that the publisher's film goes on with."""
        position: int = self._get([self.publish.actors[0].position.remote()])[0]
        return position

    def pids(self) -> list[int]:
        """Processes of the actors, each on its node; the scribe's is not among them."""
        pulses = [post.pulses(self.crew.patience.pulse) or [] for post in self._posts.values()]
        return [pulse.pid for answers in pulses for pulse in answers]

    def finish(self) -> ObjectRef:
        """Finish the film, once everything is published: a reference to it."""
        film: ObjectRef[Film] = self.publish.actors[0].finish.remote()
        return film

    def event(self, name: str, **fields: Any) -> None:
        """Have something written into the event log of the take at hand."""
        if self._order is not None:
            RemoteObserver(self.scribe, self._order.url).event(name, **fields)

    def meter(self, bytes_in_flight: int) -> None:
        """Have the metrics say what the chunks in flight weigh."""
        self.scribe.in_flight.remote(bytes_in_flight)

    def report(self, observer: Observer) -> None:
        """Tell `observer` what has happened since the last time."""
        for name, fields in self._scribe(self.scribe.news.remote):
            if name.endswith(".chunk"):
                self._longest_s = max(self._longest_s, fields["seconds"])
            observer.event(name, **fields)

    def _hire(self, act: str) -> Post:
        epoch = self._epochs[act]
        if act in self.crew.gangs:
            bundles = [self.crew.resources.bundle("denoise")] * self.crew.resources.ranks
            return Gang(act, self.scribe, epoch, bundles, self.crew.patience.exchange, self._runtime_env)
        actor = PublisherActor if act == "publish" else StageActor
        room = self.crew.resources.bundle(act)
        handle = hire(
            *(actor, act, self.scribe, epoch),
            cpus=room["CPU"],
            gpus=room.get("GPU", 0.0),
            runtime_env=self._runtime_env,
        )
        return Post(act, [handle], num_returns=2 if act == "decode" else 1)

    def _open(self, posts: Iterable[Post]) -> None:
        assert self._order is not None, "posts are opened for a take"
        posts = list(posts)
        self._opened.difference_update(post.name for post in posts)
        self._get([ref for post in posts for ref in post.open(self._order)])
        self._opened.update(post.name for post in posts)
        for post in posts:
            pulses = post.pulses(self.crew.patience.pulse) or []
            where = {"pids": [pulse.pid for pulse in pulses], "nodes": [pulse.node for pulse in pulses]}
            self.event("actor.ready", act=post.name, epoch=self._epochs[post.name], **where)

    def _no_room(self) -> CapacityError:
        wanted, there = self.crew.resources, ray.cluster_resources()
        asked, had, cure = f"{wanted.num_cpus:g} CPUs", f"{there.get('CPU', 0):g}", "use fewer --ranks or --threads"
        if wanted.num_gpus:
            asked += f" and {wanted.num_gpus:g} GPUs"
            had += f" and {there.get('GPU', 0):g}"
            cure += ", or --device cpu"
        return CapacityError(
            f"the actors did not start within {self.crew.patience.start:g} s: they ask for {asked}, the cluster has"
            f" {had}; free some, or {cure}"
        )

    def _raised(self, post: Post) -> bool:
        pulses = post.pulses(self.crew.patience.pulse)
        return pulses is None or any(pulse.failed for pulse in pulses)

    def _leaving(self) -> set[str]:
        """Nodes that Ray is about to take away, asked every few seconds."""
        if time.monotonic() < self._look_again:
            return set()
        self._look_again = time.monotonic() + 5.0
        return leaving_nodes()

    def _let_go(self) -> None:
        """Everybody lets go of the take; whoever does not, within a pulse, is dismissed."""
        closing = {act: post.close() for act, post in self._posts.items()}
        until = time.monotonic() + self.crew.patience.pulse
        for act, refs in closing.items():
            try:
                ray.get(refs, timeout=max(0.0, until - time.monotonic()))
            except (RayError, LongtakeError, OSError):
                self._posts.pop(act).dismiss()
        self._scribe(self.scribe.close.remote)

    def _get(self, refs: list[ObjectRef]) -> list[Any]:
        """Values of calls that take no longer than a start. Raises `ActorLost` where they do."""
        try:
            values: list[Any] = ray.get(refs, timeout=self.crew.patience.start)
        except GetTimeoutError:
            raise ActorLost(f"actors gave no answer for {self.crew.patience.start:g} s") from None
        except RayTaskError as error:
            if isinstance(error.cause, LongtakeError):
                raise error.cause from None
            raise
        return values

    def _scribe(self, call: Callable[[], ObjectRef]) -> Any:
        """The scribe's answer; one that is wedged is ended, and starts again."""
        try:
            return ray.get(call(), timeout=self.crew.patience.pulse)
        except GetTimeoutError:
            ray.kill(self.scribe, no_restart=False)
            return ray.get(call(), timeout=self.crew.patience.start)
