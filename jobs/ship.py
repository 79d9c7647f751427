"""Make a trained model the one that longtake ships, in place of the one of that name.

python -m longtake.jobs.ship out/train/rollout/model.safetensors
python -m longtake.jobs.ship out/train/upscaler/model.safetensors upscaler
"""

import sys
from dataclasses import replace
from pathlib import Path

import longtake.pipeline.weights
from longtake.pipeline.weights.load import load_model, load_upscaler, save_model


def ship(url: str, kind: str = "film") -> Path:
    """Write the model at `url` in float16 into `pipeline/weights/`, where it is found by its name.

    Args:
        url: the model.safetensors of a training run.
        kind: "film" or "upscaler".
    """
    model = load_upscaler(url) if kind == "upscaler" else load_model(url)
    model.config = replace(model.config, trained=True)
    path = Path(longtake.pipeline.weights.__path__[0]) / f"{model.config.name}.safetensors"
    save_model(model.half(), str(path))
    return path


if __name__ == "__main__":
    shipped = ship(*sys.argv[1:])
    print(f"{shipped}: {shipped.stat().st_size / 2**20:.1f} MiB")
