"""Make a trained model the one that longtake ships: python -m jobs.ship out/train/rollout/model.safetensors"""

import sys
from dataclasses import replace
from pathlib import Path

import pipeline.weights
from pipeline.weights.load import load_model, save_model


def ship(url: str) -> Path:
    """Write the model at `url` in float16 beside `pipeline/weights/`, where `load_model` finds it by its name."""
    model = load_model(url)
    model.config = replace(model.config, trained=True)
    path = Path(pipeline.weights.__path__[0]) / f"{model.config.name}.safetensors"
    save_model(model.half(), str(path))
    return path


if __name__ == "__main__":
    shipped = ship(*sys.argv[1:])
    print(f"{shipped}: {shipped.stat().st_size / 2**20:.1f} MiB")
