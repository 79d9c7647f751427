"""Render long films, picture and sound together, with diffusion transformers on a Ray cluster."""

from pathlib import Path

# Installed, the folders `pipeline`, `actors` and `jobs` lie inside this one; in a checkout they lie next to it.
if not Path(__path__[0], "pipeline").is_dir():
    __path__.append(str(Path(__path__[0]).parent))
