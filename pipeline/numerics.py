"""What decides a film's bits beside its storyboard: weights, versions, precision, threads, instruction set."""

import av
import torch

from pipeline.journal.keys import Parts
from pipeline.models.film_model import FilmModel


def numerics(model: FilmModel) -> Parts:
    """The numerics of rendering with `model` in this process, as it is set up now."""
    weights = next(model.parameters())
    return {
        "weights": model.fingerprint(),
        "torch": torch.__version__,
        "av": av.__version__,
        "dtype": str(weights.dtype),
        "device": weights.device.type,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
