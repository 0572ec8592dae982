"""Pairs of a fixed network, whose likelihoods are worked out by hand, and tiny pairs on disk."""

import json
import types

import jax.numpy as jnp
import numpy as np

from tests.conftest import SENTENCES


class Fixed:
    """A network of three tokens that finds the same probable everywhere: its parameters."""

    config = types.SimpleNamespace(logits_chunk=None, dropout_rate=0.0)
    adaptation = None

    def apply(self, variables, inputs_BL, **_):
        logits_V = variables["params"]["logits"]
        return jnp.broadcast_to(logits_V, (*inputs_BL.shape, *logits_V.shape))

    def clone(self, **_):
        return self


def batch(chosen=(0, 2), rejected=(1, 2), prompt=2, padding=2, pairs=1, **given):
    """Pairs of token ids behind a prompt, with padding behind them; weights as `PairTask` gives."""
    made = {"pair_weights": np.ones(pairs)}
    for name, side in {"chosen": chosen, "rejected": rejected}.items():
        ids = [1] * prompt + list(side) + [0] * padding
        made[f"{name}_inputs"] = np.array([ids[:-1]] * pairs)
        made[f"{name}_targets"] = np.array([ids[1:]] * pairs)
        weights = np.zeros((pairs, len(ids) - 1))
        weights[:, prompt - 1 : prompt - 1 + len(side)] = 1
        made[f"{name}_weights"] = weights
        for figure in ("reference", "toxicity"):
            made[f"{name}_{figure}"] = np.full(pairs, given.get(f"{name}_{figure}", 0.0))
    return made


def write_pairs(path, number=16, model=None, **changes):
    """Scored pairs without likelihoods, or with made-up ones of a model's name."""
    with path.open("w") as file:
        for i in range(number):
            pair = {
                "id": str(i),
                "prompt": "He said:" if i % 3 else "",
                "chosen": f" {SENTENCES[i % 2]}",
                "rejected": f" {SENTENCES[2 + 2 * (i % 2)]}",
                "chosen_toxicity": 0.1,
                "rejected_toxicity": 0.9,
                "chosen_ends": i % 2 == 0,
                **changes,
            }
            if model is not None:
                likelihood = {"log_likelihood": -20.0, "tokens": 1}
                pair["reference"] = {"model": model, "chosen": likelihood, "rejected": likelihood}
            file.write(json.dumps(pair) + "\n")
    return path
