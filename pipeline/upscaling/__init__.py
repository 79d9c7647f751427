"""What the road of `pipeline/upscale.py` is made of."""
