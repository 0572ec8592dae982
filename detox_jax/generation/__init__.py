"""Text from a model: prompts, sampling, decoding."""
