"""Noise levels from 1 (noise) down to 0 (clean)."""


def linear(steps: int) -> list[float]:
    """`steps + 1` evenly spaced levels."""
    return [1 - step / steps for step in range(steps + 1)]


def shifted(steps: int, shift: float) -> list[float]:
    """Evenly spaced levels bent towards noise: sigma' = shift * sigma / (1 + (shift - 1) * sigma).

    Source: Esser et al., arXiv 2403.03206, section 5.3.2; `shift=1` is `linear`.
    """
    return [shift * sigma / (1 + (shift - 1) * sigma) for sigma in linear(steps)]
