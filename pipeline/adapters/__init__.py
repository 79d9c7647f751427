"""Real open weights through diffusers: the only room that imports it."""
