"""Networks from a folder in diffusers' format: its JSON, and safetensors that are mapped, so that ranks of a machine
share their pages."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.weights.options import LoadOptions

Network = TypeVar("Network", bound=nn.Module)

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = ".safetensors.index.json"


def read_json(file: Path) -> dict[str, Any]:
    """An object in JSON. Raises `WeightsError`."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read as JSON ({error}); fetch the folder again, whole") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{file} holds {type(found).__name__}, not an object; fetch the folder again, whole")
    return found


def fill(
    network: Network,
    folder: Path,
    load: LoadOptions,
    *,
    prefix: str = "",
    float32: Collection[str] = (),
    absent: Collection[str] = (),
    unused: Collection[str] = (),
) -> Network:
    """Give a network on `meta` the tensors of its folder, and have it ready to run.

    Args:
        network: of the architecture that the folder's configuration names.
        folder: of this network, inside the model's.
        load: dtype and device.
        prefix: of the tensors in the folder that are this network's.
        float32: parts of names that stay in float32 where `load` asks for less.
        absent: tensors that the folder may lack.
        unused: parts of names that the network may lack.

    Raises:
        WeightsError: the folder holds other tensors than the network, or none that are safe to read.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    tensors = {}
    for name, tensor in read_tensors(folder, prefix):
        if name in wanted or not any(part in name for part in unused):
            tensors[name] = tensor.to(load.device, _dtype(name, tensor, load, float32))
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(n for n in wanted | found if wanted.get(n) != found.get(n) and not (n in absent and n not in found))
    if wrong:
        first = "; ".join(f"{name}: {found.get(name)} in place of {wanted.get(name)}" for name in wrong[:3])
        raise WeightsError(
            f"{len(wrong)} tensors of {folder} do not fit {type(network).__name__}, of {len(wanted)} ({first});"
            " fetch the folder again, or mend its config.json"
        )
    network.load_state_dict(tensors, strict=False, assign=True)
    return network.eval().requires_grad_(False)


def read_tensors(folder: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network's folder by name, those that begin with `prefix`, without it."""
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as opened:
                names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
                for name in names:
                    yield name.removeprefix(prefix), opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file} cannot be read ({error}); fetch it again, whole") from error


def fingerprint(folder: Path) -> str:
    """SHA-256 of all configurations, vocabularies and weights of a model's folder, the same on every machine."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors", ".model", ".txt"))
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(_digest, files))
    named = (f"{file.relative_to(folder).as_posix()} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(named).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    """The safetensors of a network: one file, or the shards that an index names."""
    indices = sorted(folder.glob(f"*{INDEX}"))
    if indices:
        names: Mapping[str, str] = read_json(indices[0]).get("weight_map", {})
        return [folder / name for name in sorted(set(names.values()))]
    files = [folder / name for name in ("diffusion_pytorch_model.safetensors", "model.safetensors")]
    found = [file for file in files if file.is_file()]
    if not found:
        pickles = any(file.suffix in PICKLES for file in folder.glob("*"))
        cure = "it holds pickles: `longtake convert` writes safetensors" if pickles else "fetch the folder again, whole"
        raise WeightsError(f"{folder} holds neither {files[0].name} nor {files[1].name}, nor an index of them; {cure}")
    return found


def _dtype(name: str, tensor: Tensor, load: LoadOptions, float32: Collection[str]) -> torch.dtype:
    if load.dtype is None:
        return tensor.dtype
    if any(part in name.split(".") for part in float32):
        return torch.promote_types(load.dtype, torch.float32)
    return load.dtype
