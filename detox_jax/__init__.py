"""detox_jax: detoxify language models by training them on their own nontoxic text, in JAX.

The public names are loaded when they are used, so that a scorer needs no JAX and nothing of this
needs tensorflow.
"""

import importlib
from importlib import metadata
from typing import Any

_PUBLIC = {
    "AdapterConfig": "detox_jax.models.adaptation",
    "BitFitConfig": "detox_jax.models.adaptation",
    "LoReFTConfig": "detox_jax.models.adaptation",
    "ParallelAdapterConfig": "detox_jax.models.adaptation",
    "LoRAConfig": "detox_jax.models.adaptation",
    "PrefixConfig": "detox_jax.models.adaptation",
    "TransformerConfig": "detox_jax.models.config",
    "TransformerLM": "detox_jax.models.transformer",
    "create_mesh": "detox_jax.parallel.mesh",
    "load_model": "detox_jax.checkpoints.model_dir",
    "Vocabulary": "detox_jax.vocabulary",
    "Greedy": "detox_jax.generation.sampling",
    "TemperatureSampling": "detox_jax.generation.sampling",
    "TopKSampling": "detox_jax.generation.sampling",
    "TopPSampling": "detox_jax.generation.sampling",
    "Decoder": "detox_jax.generation.decoding",
    "ClassifierScorer": "detox_jax.classifiers.classifier",
    "LexiconScorer": "detox_jax.toxicity.lexicon",
    "NgramScorer": "detox_jax.toxicity.ngram",
    "ToxicityScorer": "detox_jax.toxicity.scorer",
    "expected_maximum_toxicity": "detox_jax.evaluation.metrics",
    "mean_toxicity": "detox_jax.evaluation.metrics",
    "toxic_fraction": "detox_jax.evaluation.metrics",
    "toxicity_probability": "detox_jax.evaluation.metrics",
    "UserError": "detox_jax.errors",
}
__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("detox-jax")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'detox_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
