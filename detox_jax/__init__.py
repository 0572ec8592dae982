"""detox_jax: detoxify language models by training them on their own nontoxic text, in JAX.

    import detox_jax as dj

    model = dj.load("base")
    generations = model.generate(["So"], k=5)
    dj.score(generations)

The public names are loaded when they are used, so that a scorer needs no JAX and nothing of this
needs tensorflow; `__init__.pyi` says what they are to type checkers. docs/PYTHON.md.
"""

import importlib
import sys
import types
from typing import Any

_PUBLIC = {
    "load": "detox_jax.api.model",
    "Model": "detox_jax.api.model",
    "score": "detox_jax.api.verbs",
    "evaluate": "detox_jax.api.verbs",
    "Generations": "detox_jax.api.texts",
    "Scores": "detox_jax.api.texts",
    "Evaluation": "detox_jax.api.evaluation",
    "Run": "detox_jax.api.evaluation",
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
    "Tags": "detox_jax.tags",
    "Vocabulary": "detox_jax.vocabulary",
    "Greedy": "detox_jax.generation.sampling",
    "TemperatureSampling": "detox_jax.generation.sampling",
    "TopKSampling": "detox_jax.generation.sampling",
    "TopPSampling": "detox_jax.generation.sampling",
    "BannedWords": "detox_jax.generation.steering.words",
    "Experts": "detox_jax.generation.steering.experts",
    "PrefixContrast": "detox_jax.generation.steering.contrast",
    "SelfDebiasing": "detox_jax.generation.steering.contrast",
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
_VERB = "sgeat"  # a module, which gin files import, and a call
__all__ = [*_PUBLIC, _VERB]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("detox-jax")
    if name == _VERB:
        return importlib.import_module(f"detox_jax.{_VERB}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'detox_jax' has no attribute {name!r}")
    if _PUBLIC[name].startswith("detox_jax.api.") and "jax" not in sys.modules:
        importlib.import_module("detox_jax.compilation_cache").enable()
    return getattr(importlib.import_module(_PUBLIC[name]), name)


class _CalledVerb(types.ModuleType):
    """The module of a verb, which is called by the verb's name: `detox_jax.sgeat(...)`."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Runs the verb, see `detox_jax.api.verbs.sgeat`."""
        return importlib.import_module("detox_jax.api.verbs").sgeat(*arguments, **settings)

    @property
    def __signature__(self) -> Any:
        """What a notebook shows of it, an `inspect.Signature`."""
        verb = importlib.import_module("detox_jax.api.verbs").sgeat
        return importlib.import_module("inspect").signature(verb)


class _Package(types.ModuleType):
    """Python puts a submodule in the place of its name when it is imported, by gin say.

    So the name `sgeat` is always the module, and the module can be called.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == _VERB and type(value) is types.ModuleType:
            value.__class__ = _CalledVerb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
