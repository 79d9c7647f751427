"""Long films from diffusion transformers: torch and PyAV only. Start reading at `pipeline/film.py`."""
