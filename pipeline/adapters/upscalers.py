"""The upscaler of a name or a file, whichever architecture it is: what its file says about itself decides."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from longtake.pipeline.adapters.flashvsr.weights import HEADER, load_flashvsr
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.weights.load import load_upscaler


def open_upscaler(name: str, device: str = "cpu") -> StreamingUpscaler:
    """The upscaler called `name`, on `device`.

    Args:
        name: an embedded one ("upscaler"), the path or URL of a file that `save_model` wrote, or the path of one that
            `convert_flashvsr` wrote.

    Raises:
        WeightsError: nothing is there, or it is damaged, or no upscaler.
    """
    if HEADER in _header(Path(name)):
        return load_flashvsr(Path(name)).to(device)
    return load_upscaler(name).to(device)


def _header(file: Path) -> dict[str, str]:
    """What a safetensors file on this machine says about itself; nothing where there is none."""
    if not file.is_file():
        return {}
    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except SafetensorError:
        return {}
