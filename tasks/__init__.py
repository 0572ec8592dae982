"""seqio tasks and vocabularies; gin files import these, detox_jax never does."""
