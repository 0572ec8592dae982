"""detox_jax: detoxify language models by training them on their own nontoxic text, in JAX."""
