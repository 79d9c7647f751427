"""Guidance branches that ranks may share: which of them are run here, and how the velocities of the others arrive."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor
from typing_extensions import override

Velocities = Mapping[str, Tensor]
"""What a denoiser predicts, by stream."""


class Branches(Protocol):
    """How the passes of one step are divided among ranks."""

    def branches(self, branches: Iterable[str]) -> list[str]:
        """Those of `branches` that are run here. Raises `SpecError` if there are fewer than ranks to run them."""
        ...

    def all_branches(self, own: Mapping[str, Velocities], branches: Iterable[str]) -> dict[str, Velocities]:
        """The velocities of all `branches`, of which `own` were run here."""
        ...


class EveryBranch(Branches):
    """All branches are run here."""

    @override
    def branches(self, branches: Iterable[str]) -> list[str]:
        return list(branches)

    @override
    def all_branches(self, own: Mapping[str, Velocities], branches: Iterable[str]) -> dict[str, Velocities]:
        return dict(own)


EVERY_BRANCH = EveryBranch()
