"""A picture of how much keys, values and blocks of a denoiser change from step to step."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

KINDS = {"keys": "keys", "values": "values", "blocks": "what blocks add"}


def draw_steps(probe: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A PNG with a row for each branch and stream, and a column for each kind: layers upwards, steps to the right.

    Args:
        probe: by branch and stream, the fields of `sampling.calibration.Changes`.
    """
    figure = Figure(figsize=(11, 2.2 * len(probe) + 0.6), layout="constrained")
    axes = figure.subplots(len(probe), len(KINDS), squeeze=False)
    for row, (name, changes) in zip(axes, probe.items(), strict=True):
        for axis, (kind, title) in zip(row, KINDS.items(), strict=True):
            drawn = axis.imshow(_percent(changes[kind]).T, aspect="auto", origin="lower", cmap="magma", vmin=0, vmax=50)
            axis.set_title(f"{name}: {title}", fontsize=9)
            axis.tick_params(labelsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=8)
    for row in axes:
        row[0].set_ylabel("layer", fontsize=8)
    figure.colorbar(drawn, ax=axes, label="change since the step before, %", shrink=0.8)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _percent(steps: Sequence[Sequence[float]]) -> np.ndarray:
    """Changes by step and layer, in percent."""
    return 100 * np.array(steps, dtype=np.float64).reshape(len(steps), -1)
