"""Nodes that are about to leave the cluster: drained by an autoscaler, or spot machines near their end."""

from importlib import import_module

import ray


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray is draining; empty where this Ray does not report them.

    Ray 2.60 has no public call for this; `ray.train` reads the same table.
    """
    try:
        state = import_module("ray._private.state").state
        return set(state.get_draining_nodes())
    except (ImportError, AttributeError, ray.exceptions.RayError):
        return set()
