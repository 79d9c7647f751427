"""Open a model by name: embedded, a file, a folder, a repository or a URL."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from longtake.pipeline import registry
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.compiled import compile_blocks, compiler
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.weights.fetch import fetch
from longtake.pipeline.weights.folder import PICKLES, parts_of, read_index, refused
from longtake.pipeline.weights.hub import fetch_hub, is_hub_id
from longtake.pipeline.weights.licence import licence_of, terms_of
from longtake.pipeline.weights.load import EMBEDDED, load_model
from longtake.pipeline.weights.options import AS_STORED, LoadOptions
from longtake.pipeline.weights.quantize import check_quantize, quantize
from longtake.pipeline.weights.tensors import check_parts


def open_model(name: str, load: LoadOptions = AS_STORED) -> FilmModel:
    """Open the model `name`, ready to render; the networks of a model folder are loaded on first use.

    Args:
        name: an embedded model ("sounding-shapes"); the path of a `.safetensors` file that longtake wrote, or of a
            folder in diffusers' format; a Hugging Face repository (`owner/name` or `owner/name@revision`); or the
            URL of such a file or folder. An existing path takes precedence over a repository of the same name.
        load: dtype, device, quantization, compilation, and this node's cache.

    Raises:
        WeightsError: the model does not exist, is damaged, or is of an unsupported family; the message has the fix.
    """
    check_quantize(load)
    if load.compile == "blocks":
        compiler(load.device)
    if name in EMBEDDED:
        return _embedded(name, load)
    place = place_of(name, load.cache_folder)
    return open_folder(place, load) if place.is_dir() else _embedded(str(place), load)


def place_of(name: str, cache: Path) -> Path:
    """The local file or folder of a model that is not embedded; it is downloaded if necessary.

    Raises:
        WeightsError: see `open_model`.
    """
    if "://" in name:
        return fetch(name, cache)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.endswith(PICKLES):
        raise refused(name)
    if name.endswith(".safetensors"):
        return path
    if is_hub_id(name):
        return fetch_hub(name, cache)
    raise WeightsError(
        f"model is {name!r}; use {' or '.join(EMBEDDED)}, a .safetensors file that longtake wrote, a folder in"
        " diffusers' format, a Hugging Face repository such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or a URL;"
        " `longtake models` lists some"
    )


def terms(name: str, load: LoadOptions = AS_STORED) -> str | None:
    """A sentence on the model's licence that its users must see; None if there is nothing to say.

    Args:
        name: the name of an opened model.
        load: the options that it was opened with.
    """
    if name in EMBEDDED:
        return None
    place = place_of(name, load.cache_folder)
    notice = terms_of(licence_of(name, place if place.is_dir() else None))
    return None if notice is None else f"{name}: {notice}"


def open_folder(folder: Path, load: LoadOptions) -> FilmModel:
    """Open the model in a folder in diffusers' format.

    Raises:
        WeightsError: the family is not supported, or a part is missing or damaged.
    """
    index = read_index(folder)
    kind = str(index["_class_name"])
    families = registry.FAMILIES
    if kind not in families:
        raise WeightsError(f"{folder} is a {kind}, which is not supported; use one of {', '.join(families)}")
    module = registry.module_of(families[kind])
    if find_spec(module) is None:
        raise WeightsError(f"{folder} is a {kind}; this version of longtake lacks {module}, install a newer one")
    check_parts(folder, parts_of(index))
    opener = cast(Callable[[Path, LoadOptions], FilmModel], registry.resolve(families[kind]))
    return opener(folder, load)


def _embedded(name: str, load: LoadOptions) -> EmbeddedModel:
    model = load_model(name)
    model.to(load.device, load.dtype or model.dtype)
    quantize(model.denoiser, load)
    if load.compile == "blocks":
        compile_blocks(model.denoiser.blocks)
    return model
