"""Commands and their wiring: the only rooms that read argv and print."""
