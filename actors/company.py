"""The company: all actors of one take, started together in bounded time, and gone when it is over."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.exceptions import GetTimeoutError

from actors.gang import Gang
from actors.scribe import RemoteObserver, Scribe
from actors.stage import Order, PublisherActor, StageActor
from pipeline.errors import CapacityError
from pipeline.observe import Observer
from pipeline.stages.publish import Film

START_S = 180.0


@dataclass(frozen=True)
class Resources:
    """CPUs by act, which Ray places by; compute threads are set by the order. No act is given a GPU yet."""

    cpus: Mapping[str, float]
    ranks: int = 1

    @classmethod
    def of(cls, threads: int, ranks: int = 1) -> Self:
        """A denoiser with `threads` cores for each of its ranks; everything else shares one."""
        return cls({"embed": 0.1, "denoise": threads, "decode": 0.4, "encode": 0.3, "publish": 0.2}, ranks)

    @property
    def num_cpus(self) -> float:
        """All of them."""
        return sum(self.cpus.values()) + (self.ranks - 1) * self.cpus["denoise"]


class Company:
    """The actors of one take: `embed`, `denoise`, `decode`, `encode`, `publish`, each with `.remote(...)`."""

    def __init__(self, order: Order, resources: Resources) -> None:
        self._resources, self._threads = resources, order.threads
        self._runtime_env = {
            "env_vars": {
                "OMP_NUM_THREADS": str(order.threads),
                "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
            }
        }
        self.scribe = ray.remote(Scribe).options(num_cpus=0).remote(order.url)
        bundles = [{"CPU": resources.cpus["denoise"]}] * resources.ranks
        self.denoise = Gang(order, self.scribe, bundles, self._runtime_env)
        self._actors = {
            name: self._start(PublisherActor if name == "publish" else StageActor, name, order)
            for name in ("embed", "decode", "encode", "publish")
        }
        self.embed = self._actors["embed"].run
        self.decode = self._actors["decode"].run.options(num_returns=2)
        self.encode = self._actors["encode"].run
        self.publish = self._actors["publish"].run

    def _start(self, actor: type[StageActor], name: str, order: Order) -> Any:
        return (
            ray.remote(actor)
            .options(
                num_cpus=self._resources.cpus[name],
                num_gpus=0,
                max_restarts=0,
                runtime_env=self._runtime_env,
            )
            .remote(name, order, self.scribe)
        )

    def __enter__(self) -> Self:
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until all stand ready. Raises `CapacityError` where the cluster has no room, and what they raised."""
        opened = [actor.open.remote() for actor in (self.scribe, *self._actors.values())] + self.denoise.open()
        try:
            ray.get(opened, timeout=START_S)
        except GetTimeoutError:
            wanted, there = self._resources.num_cpus, ray.cluster_resources()
            self.dismiss()
            raise CapacityError(
                f"the actors did not start within {START_S:g} s: they ask for {wanted:g} CPUs, the cluster has"
                f" {there.get('CPU', 0):g}; free some, or use fewer --ranks or --threads"
            ) from None
        except BaseException:
            self.dismiss()
            raise
        # As a plain string: torch's own type would have the scribe import torch while the first chunk is denoised.
        self.event("road.start", road="ray", torch=str(torch.__version__), threads=self._threads)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.event("road.failed", error=kind.__name__, message=str(error))
        ray.get(self.scribe.close.remote())
        self.dismiss()

    def event(self, name: str, **fields: Any) -> None:
        """Have something written into the event log."""
        RemoteObserver(self.scribe).event(name, **fields)

    def report(self, observer: Observer) -> None:
        """Tell `observer` what has happened since the last time."""
        for name, fields in ray.get(self.scribe.news.remote()):
            observer.event(name, **fields)

    def finish(self) -> Film:
        """Finish the film, once everything is published."""
        film: Film = ray.get(self._actors["publish"].finish.remote())
        return film

    def dismiss(self) -> None:
        """End every actor at once."""
        for actor in (*self.denoise.ranks, *self._actors.values(), self.scribe):
            ray.kill(actor)
        self.denoise.release()
