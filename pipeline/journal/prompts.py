"""Embedded prompts of a take, so that a render that resumes does not open the text encoder.

journal/prompts/9c41....json                   manifest of a prompt's tokens; see `manifests.py`
journal/prompts/9c41...-4f1c....safetensors    the tokens
"""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import safetensors.torch
from pydantic import Field
from torch import Tensor

from longtake.pipeline.journal.manifests import Manifest, ManifestStore, indented_json
from longtake.pipeline.journal.store import Store


class PromptManifest(Manifest):
    """The manifest of an embedded prompt, with the prompt."""

    data: str = Field(pattern=r"^journal/prompts/[0-9a-f]{16}-[0-9a-f]{16}\.safetensors$")
    prompt: str


class PromptJournal:
    """Tokens of prompts under keys.

    Args:
        store: the take's output root.
        numerics: what decides the bits of tokens: weights, versions, precision, processor.
        loras: those in use in a scene, as parts of a key.
    """

    def __init__(self, store: Store, numerics: Mapping[str, Any], loras: Callable[[int], Any]) -> None:
        self._manifests = ManifestStore(store, PromptManifest, ".safetensors", indented_json)
        self._numerics, self._loras = numerics, loras

    def holds(self, prompt: str, scene: int) -> bool:
        """Whether the tokens of a scene's prompt are kept. Their data may be damaged."""
        return self._manifests.matching(self._name(prompt, scene), self._key(prompt, scene)) is not None

    def tokens(self, prompt: str, scene: int) -> Tensor | None:
        """The tokens [l d] of a scene's prompt, bit for bit as they were computed; None if they must be computed."""
        data = self._manifests.get(self._name(prompt, scene), self._key(prompt, scene))
        return None if data is None else safetensors.torch.load(data)["tokens"]

    def keep(self, prompt: str, scene: int, tokens: Tensor) -> None:
        """Commit the tokens [l d] of a scene's prompt."""
        data = safetensors.torch.save({"tokens": tokens.contiguous()})
        self._manifests.commit(self._name(prompt, scene), self._key(prompt, scene), data, prompt=prompt)

    def _name(self, prompt: str, scene: int) -> str:
        return f"journal/prompts/{_digest(prompt, self._loras(scene))[:16]}"

    def _key(self, prompt: str, scene: int) -> str:
        return _digest(prompt, self._loras(scene), dict(self._numerics))


def _digest(*parts: Any) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
