"""What the road of `pipeline/upscale_film.py` is made of."""
