"""The upscaler of a name or a file, of any architecture: the header of its file decides which."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from longtake.pipeline.adapters.flashvsr.weights import HEADER, load_flashvsr
from longtake.pipeline.errors import JournalError
from longtake.pipeline.models.streaming_upscaler import ChunkGrid, StreamingUpscaler, grid_of
from longtake.pipeline.weights.licence import read_licence, terms_of
from longtake.pipeline.weights.load import load_upscaler


def open_upscaler(name: str, device: str = "cpu") -> StreamingUpscaler:
    """The upscaler called `name`, on `device`.

    Args:
        name: a built-in one ("upscaler"), the path or URL of a file that `save_model` wrote, or the path of one that
            `convert_flashvsr` wrote.

    Raises:
        WeightsError: the file is missing or damaged, or holds no upscaler.
    """
    if HEADER in _header(Path(name)):
        return load_flashvsr(Path(name)).to(device)
    return load_upscaler(name).to(device)


def upscaler_notes(name: str, model: StreamingUpscaler) -> list[str]:
    """What users must know before they upscale with `model`, opened by `name`: sentences without a full stop."""
    notes = [] if model.trained else [f"{model.name} has no trained weights yet: expect a bicubic enlargement"]
    if Path(name).is_file() and (terms := terms_of(read_licence(Path(name).parent))) is not None:
        notes.append(f"{name}: {terms}")
    return notes


class TakeUpscaler:
    """The upscaler of a take: what every process needs in order to plan with it, and the weights on demand.

    Args:
        name: as `open_upscaler` takes it.
        fingerprint: of the weights and settings.
        grid: how it proceeds through a section.
        model: the upscaler itself, if it is loaded already.
    """

    def __init__(self, name: str, fingerprint: str, grid: ChunkGrid, model: StreamingUpscaler | None = None) -> None:
        self.name, self.fingerprint, self.grid = name, fingerprint, grid
        self._model = model

    @classmethod
    def of(cls, name: str, card: Mapping[str, Any] | None = None) -> "TakeUpscaler":
        """The upscaler called `name`.

        Args:
            card: of the same upscaler in another process; None loads the weights.
        """
        if card is not None:
            return cls(name, card["fingerprint"], ChunkGrid(**card["grid"]))
        model = open_upscaler(name)
        return cls(name, model.fingerprint(), grid_of(model), model)

    def card(self) -> dict[str, Any]:
        """Everything but the weights, as plain values."""
        return {"fingerprint": self.fingerprint, "grid": asdict(self.grid)}

    @property
    def model(self) -> StreamingUpscaler:
        """The upscaler, loaded on the CPU when it is first needed. Raises `JournalError` if the file has changed."""
        if self._model is None:
            model = open_upscaler(self.name)
            if model.fingerprint() != self.fingerprint:
                raise JournalError(
                    f"output.upscaler: {self.name} is another file here than where the render began; put it where all"
                    " nodes see the same one"
                )
            self._model = model
        return self._model


def _header(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file on this machine; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except SafetensorError:
        return {}
