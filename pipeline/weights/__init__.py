"""Loading and saving of weights: safetensors only, with the configuration in the file's header."""
