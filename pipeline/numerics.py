"""What decides a film's bits beside its storyboard: weights, versions, precision, threads, ranks, instruction set."""

import av
import torch

from pipeline.attention.shares import Degrees
from pipeline.journal.keys import Parts
from pipeline.models.protocols import FilmModel

ONE_RANK = Degrees()


def numerics(model: FilmModel, degrees: Degrees = ONE_RANK, device: str | None = None) -> Parts:
    """The numerics of rendering with `model` in this process, as it is set up now, by a gang of `degrees`.

    Args:
        device: where the film is denoised; where the model is, if not given. Which GPU it is, is not told: keep to one
            kind for one film.
    """
    return {
        "weights": model.fingerprint(),
        "torch": torch.__version__,
        "av": av.__version__,
        "dtype": str(model.dtype),
        "device": device or model.device.type,
        "threads": torch.get_num_threads(),
        "degrees": f"ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
