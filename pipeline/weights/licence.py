"""Licences of models, and the notice that users of a model must see."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

CARD = "README.md"
"""The model card; it starts with YAML front matter that names the licence."""

_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_NON_COMMERCIAL = re.compile(r"(?:^|[-_ ])nc(?:[-_ ]|$)|non-?commercial", re.IGNORECASE)

LICENCES: Mapping[str, str] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "apache-2.0",
    "Lightricks/LTX-2": "ltx-2-community-license",
    "gdhe17/Self-Forcing": "apache-2.0",
    "Efficient-Large-Model/LongLive-1.3B": "apache-2.0",
    "Efficient-Large-Model/LongLive-2.0-5B": "unknown",
    "tianweiy/CausVid": "cc-by-nc-sa-4.0",
    "krea/krea-realtime-video": "cc-by-nc-sa-4.0",
}
"""Licences of known repositories, as stated on their cards."""

_TERMS = {"ltx-2": "its licence, the LTX-2 Community License, limits commercial use: https://ltx.io/model/licensing"}
"""Terms that a licence's name does not show, by the start of the name."""


def licence_of(name: str, folder: Path | None = None) -> str | None:
    """The licence of model `name`, any revision: from the table of known models, else from the card in its folder."""
    known = LICENCES.get(name.partition("@")[0])
    return known if known or folder is None else read_licence(folder)


def terms_of(licence: str | None) -> str | None:
    """The restriction that a licence puts on commercial use; None if it has none or is unknown."""
    if licence is None:
        return None
    if forbids_commercial_use(licence):
        return f"its licence, {licence}, forbids commercial use"
    return next((terms for start, terms in _TERMS.items() if licence.lower().startswith(start)), None)


def read_licence(folder: Path) -> str | None:
    """The licence that a model's card names; None without a card or if it names none."""
    try:
        front = _FRONT.match((folder / CARD).read_text(encoding="utf-8", errors="replace"))
        card = yaml.safe_load(front[1]) if front else None
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(card, dict):
        return None
    named = card.get("license_name") if card.get("license") in (None, "other") else card["license"]
    return str(named) if named else None


def forbids_commercial_use(licence: str) -> bool:
    """Whether the name of a licence forbids commercial use, as cc-by-nc-sa-4.0 does."""
    return _NON_COMMERCIAL.search(licence) is not None
