"""FlashVSR's published files to one safetensors file, and that file to a model.

The published folder mixes safetensors with pickles and does not name its variant. `convert_flashvsr` reads the pickles
as tensors only, detects the variant or refuses, and writes it into the header.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.pipeline.adapters.flashvsr.model import FlashVSR, FlashVSRSettings, FlashVSRSizes
from longtake.pipeline.adapters.flashvsr.projector import Variant
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.folder import unreadable

PARTS = {
    "diffusion_pytorch_model_streaming_dmd": "dit.",
    "LQ_proj_in": "projector.",
    "TCDecoder": "decoder.",
    "posi_prompt": "prompt",
}
"""Published file -> the part of `FlashVSR` that it holds. The prompt is in the repository of the code."""

PICKLES = (".ckpt", ".pth", ".pt", ".bin")
PROJECTOR_SHA256: dict[str, Variant] = {
    "d6d011cdaaba6a52645086caa08fa04124e746f6ca568140a24007591142bfd2": "v1.1",
}
"""Known checksums of `LQ_proj_in.ckpt`, the projector, in which the variants differ."""

HEADER = "flashvsr"


@dataclass(frozen=True)
class Header:
    """The metadata of a converted file."""

    variant: Variant
    sizes: FlashVSRSizes


def convert_flashvsr(
    folder_in: Path,
    file_out: Path,
    variant: Variant | None = None,
    sizes: FlashVSRSizes | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Variant:
    """Write the published files in `folder_in` as one safetensors file, and return the variant they are.

    Args:
        folder_in: holds the files of `PARTS`, each as .safetensors or as a pickle of tensors.
        file_out: to be written.
        variant: None: detected by the projector's checksum, or by the folder's name.
        sizes: of the networks; None: the published ones.
        dtype: of all weights; the published pipeline runs in bfloat16.

    Raises:
        WeightsError: a file is missing, holds other things than tensors, or tensors that do not fit the architecture,
            or the variant is unknown.
    """
    files = {part: _find(folder_in, part) for part in PARTS}
    variant = _variant(files["LQ_proj_in"], variant)
    header = Header(variant, sizes or FlashVSRSizes())
    tensors = {}
    for part, prefix in PARTS.items():
        for key, tensor in _read(files[part], bare="" if part == "posi_prompt" else None).items():
            tensors[prefix + key] = tensor.to(dtype).contiguous()
    _fitting(header, tensors, folder_in)
    save_file(tensors, file_out, {HEADER: TypeAdapter(Header).dump_json(header).decode()})
    return variant


def load_flashvsr(file: Path, settings: FlashVSRSettings | None = None) -> FlashVSR:
    """The model in a file that `convert_flashvsr` wrote.

    Raises:
        WeightsError: `file` is not such a file.
    """
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file} is no .safetensors file; `longtake convert FOLDER {file.stem}.safetensors` makes one of the"
            " published folder"
        )
    try:
        with safe_open(file, "pt") as opened:
            header = TypeAdapter(Header).validate_json((opened.metadata() or {})[HEADER])
        tensors = load_file(file)
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        reason = "its header does not name the variant" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise WeightsError(f"{file} is no converted FlashVSR ({reason}); write it with `longtake convert`") from error
    return _fitting(header, tensors, file, settings)


def _fitting(
    header: Header, tensors: dict[str, Tensor], source: Path, settings: FlashVSRSettings | None = None
) -> FlashVSR:
    """The model with exactly these tensors."""
    with torch.device("meta"):
        model = FlashVSR(header.sizes, header.variant, settings or FlashVSRSettings())
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
    if wrong:
        first = "; ".join(f"{key}: {found.get(key)} in place of {wanted.get(key)}" for key in wrong[:3])
        raise WeightsError(f"{len(wrong)} tensors of {source} do not fit FlashVSR, of {len(wanted)} ({first})")
    # Copied, since tensors in a file are not aligned to cache lines, and some CPU kernels then round differently.
    model.load_state_dict({key: tensor.clone() for key, tensor in tensors.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _find(folder: Path, part: str) -> Path:
    for suffix in (".safetensors", *PICKLES):
        if (folder / (part + suffix)).is_file():
            return folder / (part + suffix)
    where = "examples/WanVSR/prompt_tensor of FlashVSR's code" if part == "posi_prompt" else "the published weights"
    raise WeightsError(f"{folder} holds no {part}.safetensors nor {part}.ckpt or .pth; copy it from {where}")


def _read(file: Path, bare: str | None) -> dict[str, Tensor]:
    """Tensors by key; `bare` is the key of a tensor without a name, if the file may hold one."""
    try:
        read = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # a pickle can fail with any error
        raise unreadable(file, error) from error
    if bare is not None:
        tensors = [read] if isinstance(read, Tensor) else list(read.values())
        read = dict(zip([bare], tensors, strict=True)) if len(tensors) == 1 else {}
    if not read or not all(isinstance(tensor, Tensor) for tensor in read.values()):
        raise WeightsError(f"{file} holds no tensors by name; fetch it again from the source")
    return dict(read)


def _variant(projector: Path, spec: Variant | None) -> Variant:
    """The variant of the projector: by its checksum, the argument, or the folder's name, in this order."""
    known = PROJECTOR_SHA256.get(_sha256(projector))
    if known and spec and known != spec:
        raise WeightsError(f"{projector} has the checksum of {known}, and {spec} was asked for; leave the variant out")
    if known or spec:
        found = known or spec
        assert found is not None
        return found
    name = projector.resolve().parent.name
    if re.search(r"v1(?![._]?\d)", name, re.IGNORECASE):
        return "v1"
    raise WeightsError(
        f"{projector} may be FlashVSR v1 or v1.1, whose tensors are alike and whose use is not: its checksum is not "
        f"the published one of v1.1, and its folder's name, {name!r}, does not say v1; say it: --variant v1 or v1.1"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
