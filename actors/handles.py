"""Ray's references and actor handles with types, and how an actor is started."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ray
from ray import ObjectRef
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from longtake.actors.cluster import worker_command

Ref: TypeAlias = ObjectRef[Any]
"""A reference to the result of a call on a `Handle`."""

Handle: TypeAlias = Any
"""An actor. Ray types the methods of its own `ActorHandle` as `Never`, so that type cannot be used to call them."""


@dataclass(frozen=True)
class ActorOptions:
    """What an actor asks Ray for.

    Args:
        cpus: reserved for the actor; Ray places by them.
        gpus: reserved for the actor.
        env: environment variables of its process.
        bundle: its place in a placement group.
        concurrency_groups: groups of methods that run next to the others, with the number of threads of each.
    """

    cpus: float
    gpus: float = 0.0
    env: Mapping[str, str] = field(default_factory=dict)
    bundle: PlacementGroupSchedulingStrategy | None = None
    concurrency_groups: Mapping[str, int] = field(default_factory=dict)


def start_actor(actor: type, options: ActorOptions, **arguments: Any) -> Handle:
    """Start an actor with the arguments of its constructor. Ray does not restart it: the caller replaces it."""
    declared: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
    if options.concurrency_groups:
        declared["concurrency_groups"] = dict(options.concurrency_groups)
    placed = {} if options.bundle is None else {"scheduling_strategy": options.bundle}
    started: Any = ray.remote(**declared)(actor).options(
        num_cpus=options.cpus, num_gpus=options.gpus, runtime_env=runtime_env(options.env, options.gpus), **placed
    )
    handle: Handle = started.remote(**arguments)
    return handle


def runtime_env(env: Mapping[str, str], gpus: float = 0.0) -> dict[str, Any]:
    """Ray's runtime environment of an actor with these environment variables."""
    # With a GPU, processes start in the ordinary way: CUDA and forks do not mix.
    command = None if gpus else worker_command(env)
    return {"env_vars": dict(env), **({} if command is None else {"py_executable": command})}
