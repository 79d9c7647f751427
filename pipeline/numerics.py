"""What decides a film's bits beside its storyboard: weights, versions, precision, threads, ranks, instruction set."""

import av
import torch

from pipeline.attention.shares import Degrees
from pipeline.journal.keys import Parts
from pipeline.models.protocols import FilmModel, Segment

ONE_RANK = Degrees()


def numerics(model: FilmModel, degrees: Degrees = ONE_RANK) -> Parts:
    """The numerics of rendering with `model` in this process, as it is set up now, by a gang of `degrees`."""
    parts = {
        "weights": model.fingerprint(),
        "torch": torch.__version__,
        "av": av.__version__,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "degrees": f"ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if isinstance(model.rollout, Segment):
        shown = "clean" if model.rollout.clean else "noised"
        parts["rollout"] = f"segments, each after {model.rollout.overlap} latents shown {shown}"
    return parts
