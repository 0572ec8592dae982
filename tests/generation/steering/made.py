"""What steers `model_dir` on disk: adaptations of it, models of their own, and fitted vectors."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from detox_jax import output_settings, outputs
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import decoding, sampling
from detox_jax.generation.steering import fitting, steering, vectors
from detox_jax.models import adaptation as adaptations
from tests.conftest import random_params


def save_adaptation(path, base_dir, mesh, seed, adaptation=None, scale=1.0):
    """A random adaptation of the model in `base_dir`."""
    adaptation = adaptation or adaptations.AdapterConfig(8)
    base = checkpoints.load_model(base_dir, mesh)
    _, whole = random_params(base.spec.config, adaptation, seed)
    trained, _ = params_lib.partition(whole, adaptation.trainable_pattern)
    trained = jax.tree.map(lambda leaf: scale * leaf, trained)
    reference = {"path": base_dir, "fingerprint": base.fingerprint}
    spec = dataclasses.replace(base.spec, adaptation=adaptation, base=reference)
    return _save(path, trained, spec, base.vocabulary)


def save_whole(path, config, vocabulary, seed):
    """A random model of its own."""
    _, params = random_params(config, seed=seed)
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    return _save(path, params, spec, vocabulary)


RULES = {
    "mean_difference": fitting.MeanDifference(),
    "in_context": fitting.InContextVectors(),
    "heads": fitting.HeadDirections(),
    "heads, published": fitting.HeadDirections(published=True),
    "affine": fitting.AffineMap(),
    "affine, covariance": fitting.AffineMap(covariance=True),
}


def save_vectors(path, base, name, seed=0, width=None, scale=1.0):
    """Vectors of random states, as `steer` writes them."""
    fit, config, noise = RULES[name], base.module.config, np.random.default_rng(seed)
    D = width or config.emb_dim
    per_layer = {"heads": (config.num_heads, config.head_size)}.get(fit.reading().site, (D,))
    shape = (D,) if fit.rule == "affine" else (config.num_layers, *per_layer)
    toxic, clean = noise.normal(size=(2, 80, *shape)) + noise.normal(size=(2, 1, *shape))
    settings = {"checkpoint": {"path": "base", "fingerprint": base.fingerprint}}
    output = outputs.OutputDirectory(str(path), "steer", settings)
    arrays = fit.fit(toxic, clean, config.num_heads)
    if scale == 1:
        vectors.write(output, arrays)
    else:  # which `write` would refuse
        np.savez(Path(path) / vectors.FILE, **{n: scale * array for n, array in arrays.items()})
    output.finish(rule=fit.rule, site=fit.site)
    return str(path)


def check_said_ahead(method, loaded):
    """What a check says of a method before it is loaded is what its settings say then."""
    there = json.loads(json.dumps(loaded.settings))
    (ahead,) = steering.settings_ahead([method])["steering"]
    assert output_settings.as_far_as_known(ahead, there) == there
    assert ahead.known["method"] == there["method"]
    numbers = {name for name, x in ahead.known.items() if isinstance(x, int | float)}
    assert numbers <= there.keys()
    for name in numbers:
        changed = output_settings.NotYet(known={**ahead.known, name: ahead.known[name] + 1})
        assert output_settings.as_far_as_known(changed, there) != there


def read(module, params, ids, edits=(), with_logits=True):
    """Logits, or final states, at each of a text's ids by one pass without a cache."""
    return np.asarray(_read(module, params, padded(ids), edits, with_logits))[0, : len(ids)]


def padded(ids):
    """`[1, L]` of whole sixteens: a text that grows is compiled once and not at every length."""
    return np.pad(np.asarray(ids), (0, -len(ids) % 16))[None]


@functools.partial(jax.jit, static_argnames=("module", "with_logits"))
def _read(module, params, ids_1L, edits, with_logits):
    options = {"enable_dropout": False, "with_logits": with_logits, "edits": edits}
    return module.apply({"params": params}, jnp.asarray(ids_1L), **options)


@functools.partial(jax.jit, static_argnames="size")
def first_step(method, prompts_NP, lengths_N, logits_NV, size):
    """The distribution behind each prompt, of one method and the base's logits."""
    states = steering.start((method,), prompts_NP, lengths_N, 16)
    token_N = jnp.take_along_axis(prompts_NP, lengths_N[:, None] - 1, axis=1)[:, 0]
    return steering.adjust((method,), states, logits_NV, token_N, size)[0]


def decode(base, mesh, steerings, prompts, new_tokens, samples=1, method=None, rows=0, names=None):
    """The tokens of each sample of each prompt, greedily drawn where no method is given."""
    decoder = decoding.Decoder(
        base.module,
        base.params,
        mesh,
        sampling=method or sampling.Greedy(),
        max_new_tokens=new_tokens,
        end_ids=(base.vocabulary.eos_id,),
        seed=0,
        steerings=steerings,
    )
    names = names or [f"p{n}" for n in range(len(prompts))]
    decoded = decoder(prompts, names, num_samples=samples, num_rows=rows or len(prompts), bucket=16)
    return [[sample.tokens for sample in of_prompt] for of_prompt in decoded]


def _save(path, params, spec, vocabulary):
    Path(path).mkdir(parents=True)
    checkpoints.save_model(epath.Path(path), params, spec, vocabulary)
    return str(path)
