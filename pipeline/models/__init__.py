"""The embedded models, small enough for a laptop, and the protocols that larger ones answer to."""
