"""The embedded models, small enough for a laptop, and the protocols that all models implement."""
