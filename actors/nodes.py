"""Whether a Ray cluster may get more nodes than it has."""

from collections.abc import Mapping, Sequence
from typing import Any

NODE_GROUP = "ray.io/node-group"
"""The label of nodes that a cluster launcher or Kubernetes started, and of which it may start more."""


def may_grow(nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a cluster of these nodes may get more."""
    return any(NODE_GROUP in node.get("Labels", {}) for node in nodes)
