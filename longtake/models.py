"""Open a model from Python."""

from longtake.actors.load_options import load_options, resolve_device
from longtake.pipeline.adapters.open import open_model as open_film_model
from longtake.pipeline.models.protocols import FilmModel


def open_model(name: str, *, device: str = "auto", dtype: str | None = None, quantize: str | None = None) -> FilmModel:
    """Open a model. Networks of large models are read when they are first used.

    Args:
        name: a built-in model, a `.safetensors` file, a folder in diffusers' format, a Hugging Face repository
            (`owner/name` or `owner/name@revision`), or a URL.
        device: "cpu", "cuda", or "auto": "cuda" if this machine has a GPU.
        dtype: "float32", "bfloat16" or "float16" (default: as stored).
        quantize: "int8" or "float8".

    Raises:
        WeightsError: there is no such model, it is damaged, or its family is not supported.
        SpecError: an option is wrong.
    """
    return open_film_model(name, load_options(dtype, quantize, resolve_device(device, in_process=True)))
