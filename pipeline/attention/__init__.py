"""Attention over chunks: what a layer calls, which chunks it sees, and where their keys are stored."""
