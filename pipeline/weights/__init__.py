"""Where models come from: safetensors only, the configuration in the file's own header."""
