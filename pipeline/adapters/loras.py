"""The LoRAs of a storyboard, read for the networks of its model."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.models.adapted import Adaptable, AdaptableNetwork, Applied, NetworkLoras
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.names import scheme_of
from longtake.pipeline.spec import LoraSpec, Storyboard
from longtake.pipeline.weights.fetch import fetch
from longtake.pipeline.weights.lora import SECOND, Change, Naming, read_lora
from longtake.pipeline.weights.node_cache import sha256_of
from longtake.pipeline.weights.options import AS_STORED
from longtake.pipeline.weights.peft_config import peft_config

TEXT = "text"
"""How the parts of a model that run in the embed stage are called; a second expert has its own."""


ADAPTED = "_longtake_adapted"
"""The attribute of a model to whose networks LoRAs were attached."""


@dataclass(frozen=True)
class FilmLoras:
    """The LoRAs of a film, ready to be attached to its model.

    Args:
        parts: by part of the model, in the storyboard's order.
        digests: SHA-256 of each file, by its place in the storyboard.
        notes: what each of them changes, for the user.
    """

    model: FilmModel
    parts: Mapping[str, Sequence[Applied]]
    digests: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def attach(self, *, text: bool) -> list[NetworkLoras]:
        """Attach them to the networks of the embed stage, or to all others. What was attached before is detached."""
        if not isinstance(self.model, Adaptable) or not (self.parts or hasattr(self.model, ADAPTED)):
            return []
        setattr(self.model, ADAPTED, True)
        found = []
        for part, network in self.model.adaptables().items():
            if part.startswith(TEXT) == text:
                loras = NetworkLoras(self.parts.get(part, ()))
                network.when_loaded(loras.attach)
                found.append(loras)
        return found if any(self.parts.values()) else []


def open_loras(storyboard: Storyboard, model: FilmModel, cache: Path = AS_STORED.cache_folder) -> FilmLoras:
    """The LoRAs of a storyboard for its model. Files at URLs are fetched once per node.

    Raises:
        SpecError: a LoRA does not fit the model, or a scene does not exist.
        WeightsError: a file is missing, damaged, or of an unsupported kind.
    """
    parts: dict[str, list[Applied]] = {}
    found, notes = [], []
    for index, spec in enumerate(storyboard.loras):
        key = f"loras[{index}]"
        if not isinstance(model, Adaptable):
            raise SpecError(f"{key}.file is {spec.file!r}; {model.name} takes no LoRAs, leave it out")
        file = fetch(spec.file, cache) if scheme_of(spec.file) else Path(spec.file)
        if file.is_dir():
            inside = ", ".join(sorted(each.name for each in file.glob("*.safetensors"))) or "no .safetensors"
            raise SpecError(f"{key}.file is {spec.file!r}, a folder; name a file in it, it holds {inside}")
        if not file.is_file():
            raise SpecError(f"{key}.file is {spec.file!r}, which does not exist; name a file or URL")
        try:
            config = peft_config(spec.file)
            found.append(_digest(sha256_of(file, cache), config))
            notes.append(_add(parts, file, spec, model, config))
        except WeightsError as error:
            raise SpecError(f"{key}.file: {error}") from error
    return FilmLoras(model, parts, tuple(found), tuple(notes))


def _digest(file: str, config: str | None) -> str:
    return file if config is None else hashlib.sha256(f"{file}{config}".encode()).hexdigest()


def _add(parts: dict[str, list[Applied]], file: Path, spec: LoraSpec, model: FilmModel, config: str | None) -> str:
    """Add a LoRA to the parts that it changes; returns what the user should know."""
    assert isinstance(model, Adaptable)
    networks = model.adaptables()
    layout = {key: shape for network in networks.values() for key, shape in network.layout.items()}
    first = next(iter(networks.values()))
    lora = read_lora(file, layout, Naming(first.own, first.original), model=model.name, config=config)
    changes = {key: change for key, change in lora.changes.items() if _is_of(spec, key)}
    if not changes:
        raise WeightsError(f"{file.name} changes nothing of {' and '.join(spec.streams or ())}; leave out streams")
    by_expert = any(key.startswith(SECOND) for key in changes)
    used = 0
    for part, network in networks.items():
        own = _for_part(part, network, changes, by_expert=by_expert)
        if own and not (part.startswith(TEXT) and spec.noise is not None):
            parts.setdefault(part, []).append(Applied(own, spec.strength, spec.scenes, spec.noise))
            used += len(own)
    if not used:
        raise WeightsError(f"{file.name} changes only what {model.name} lacks; use a LoRA of this model")
    where = "" if spec.scenes is None else f", in scenes {', '.join(map(str, spec.scenes))}"
    return f"{lora.describe()}; strength {spec.strength:g}{where}"


def _for_part(
    part: str, network: AdaptableNetwork, changes: Mapping[str, Change], *, by_expert: bool
) -> dict[str, Change]:
    second = by_expert and part.endswith("_2")
    wanted = {key.removeprefix(SECOND): change for key, change in changes.items() if key.startswith(SECOND) == second}
    return {key: change for key, change in wanted.items() if key in network.layout}


def _is_of(spec: LoraSpec, key: str) -> bool:
    """Whether a parameter belongs to one of the streams that a LoRA is limited to."""
    if spec.streams is None:
        return True
    return ("audio" if re.search(r"(?:^|[._])audio", key) else "video") in spec.streams
