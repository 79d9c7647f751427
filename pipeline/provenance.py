"""What decides a film's bits beside its storyboard: weights, versions, precision, threads, ranks, instruction set."""

from importlib.metadata import version

import av
import torch

from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.weights.options import AS_STORED, LoadOptions

ONE_RANK = Degrees()


def numerics(model: FilmModel, degrees: Degrees = ONE_RANK, load: LoadOptions = AS_STORED) -> Parts:
    """The numerics of rendering with `model`, opened with `load`, in this process, as it is set up now, by a gang of
    `degrees`. Which GPU it is, is not told: keep to one kind for one film."""
    parts = {
        "weights": model.fingerprint(),
        "torch": torch.__version__,
        "av": av.__version__,
        "dtype": str(model.dtype),
        "device": load.device.type,
        "threads": torch.get_num_threads(),
        "audio_lag": model.audio_lag,
        "degrees": f"ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if load.quantize is not None:
        parts["quantize"] = f"{load.quantize}, torchao {version('torchao')}"
    parts["rollout"] = model.rollout.describe(model.kv_plan)
    return parts
