"""The same acts as Ray actors."""
