"""The parts of `pipeline/upscale_film.py`: plan, segments, output."""
