"""From noise to clean latents, chunk after chunk."""
