"""What steering costs and buys, for docs/STEERING.md.

    python benchmarks/steering.py budgets [runs/steering]     of a finished `make steering`
    python benchmarks/steering.py plane [runs/steering]       the same
    python benchmarks/steering.py times [--shape=gpt2] [--rows=256] [--passes=9] [--dtype=float32]
    python benchmarks/steering.py reading [--shape=demo] [--rows=32] [--passes=3]

Toxicity at budgets of perplexity: of all rows whose continuations are at most so much less
probable under the base than the base's own, the least toxic. Plane: how often SASA's margin tells
a toxic from a clean document, of the base's own that were not fitted on, at places within them
(AUC), by where in texts the plane was fitted. Time: the same prompts decoded by each method in
turn in one process, in random weights, compilation not counted; a method's time over plain
decoding's of the same pass, the median of all passes with the least and the most, and the same of
the process's processor seconds, which a busy machine changes less. Reading: what texts of the
context's length cost under each method, in one pass and token by token, in processor seconds of
the whole process.
"""

import argparse
import functools
import json
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from detox_jax.checkpoints import model_dir
from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import decoding, fit_subspace, sampling
from detox_jax.generation.steering import (
    activation_formulas,
    activations,
    contrast,
    discriminator,
    experts,
    one_pass,
    scoring,
    states,
    subspace,
    words,
)
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.models import edits
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes

_BUDGETS = (0.01, 0.05, 0.10)
_NEW_TOKENS, _SAMPLES, _PROMPT = 20, 8, 6
# Vocabulary, width, heads, layers: the demo's base, GPT-2 small, and the paper's 1.3B.
_SHAPES = {
    "demo": (2048, 160, 4, 4),
    "gpt2": (50257, 768, 12, 12),
    "1.3b": (50257, 2048, 32, 24),
}
_CANDIDATES = 20  # SASA's and RAD's
_AHEAD = f"SASA, {_CANDIDATES} candidates"
_READ = 80  # tokens of a document, at most
_PHRASES = 700  # as many ways to write as the package's own list has
_END = 1


def budgets(root: Path) -> None:
    """Prints the least toxic row within each budget, by each judge."""
    for judge in sorted((root / "evaluation").glob("*/results.json")):
        rows = json.loads(judge.read_text())["rows"]
        rows = {row["method"]: row for row in rows if row["split"] == "full"}
        base = rows["base"]["continuation_perplexity"]["value"]
        print(f"\n{judge.parent.name}: method, EMT, perplexity of continuations against base's")
        for name, row in rows.items():
            more = row["continuation_perplexity"]["value"] / base - 1
            print(f"  {name:14}{row['expected_maximum_toxicity']['value']:6.3f}  {more:+7.1%}")
        for budget in _BUDGETS:
            emt, name = min(
                (row["expected_maximum_toxicity"]["value"], name)
                for name, row in rows.items()
                if row["continuation_perplexity"]["value"] <= base * (1 + budget)
            )
            print(f"  within {budget:+.0%}: {name}, {emt:.3f}")


def plane(root: Path) -> None:
    """Prints the AUC of planes that are fitted at the ends of texts and at all their tokens."""
    base = model_dir.load_model(str(root / "base"), meshes.create_mesh())
    scored = str(root / "corpora" / "standard" / "scored")
    by_class = [texts[:200] for texts in fit_subspace._classes(scored, 0.5, 200)]
    ids = states.encoded(base.vocabulary, [text for texts in by_class for text in texts])
    toxic_T = np.repeat([False, True], [len(texts) for texts in by_class])
    lengths_T = np.array([min(len(text), _READ) for text in ids])
    tokens_TL = np.zeros((len(ids), _READ), np.int32)
    for row, text in zip(tokens_TL, ids, strict=True):
        row[: len(text)] = text[:_READ]
    read = functools.partial(base.module.apply, enable_dropout=False, with_logits=False)
    h_TLD = np.asarray(jax.jit(read)({"params": base.params}, tokens_TL), np.float64)
    fitted_T = np.random.default_rng(0).random(len(ids)) < 0.6
    index_L = np.arange(_READ)
    within_TL = (index_L > 0) & (index_L < lengths_T[:, None])
    fits = {
        "the last token": within_TL & (index_L == lengths_T[:, None] - 1),
        "all tokens": within_TL,
    }
    for name, at_TL in fits.items():
        sides = [h_TLD[at_TL & (fitted_T & (toxic_T == side))[:, None]] for side in (False, True)]
        normal_D, centre_D = subspace.fit(*sides)
        margin_TL = (h_TLD - centre_D) @ normal_D
        print(f"fitted at {name}: AUC at shares of the text")
        for share in (0.1, 0.25, 0.5, 0.75, 0.9, 1.0):
            place_T = np.clip((lengths_T * share).astype(int), 1, lengths_T - 1)
            at_T = margin_TL[np.arange(len(ids)), place_T]
            clean, toxic = (at_T[~fitted_T & (toxic_T == side)] for side in (False, True))
            print(f"  {share:.0%}: {np.mean(toxic[:, None] < clean):.3f}")


# --- time ---------------------------------------------------------------------------------------


def _random(module, seed):
    tokens = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: module.init(key, tokens, enable_dropout=False)["params"])
    return jax.block_until_ready(init(jax.random.key(seed)))


def _methods(module, params):
    """The methods as the loop has them, of random numbers."""
    config, adapted = module.config, TransformerLM(module.config, AdapterConfig(64))
    pattern = AdapterConfig(64).trainable_pattern
    pair = [params_lib.partition(_random(adapted, seed), pattern)[0] for seed in (1, 2)]
    # The same two models, as if they had nothing in common with the base.
    apart = [
        params_lib.combine(jax.tree.map(lambda leaf: leaf + 0, params), adapter) for adapter in pair
    ]
    noise = np.random.default_rng(0)
    phrases = [tuple(noise.integers(2, config.vocab_size, 1 + n % 4)) for n in range(_PHRASES)]
    automaton = words.Automaton.of_phrases(phrases, config.vocab_size)
    direction_ND = noise.normal(size=(config.num_layers, config.emb_dim)).astype(np.float32)
    strength_N = np.full(config.num_layers, 0.1, np.float32)

    def added(*branches, has_expert=True):
        return experts.Added(branches, jnp.float32(2.0), None, has_expert, True)

    offset = activations.Directed(
        direction_ND, strength_N, activation_formulas.offset, edits.RESIDUAL
    )
    behind = Branches.of_prefixes(module, params, [[3, 4, 5, 6, 7, 8]], 2)
    anti = Branches.of_model(adapted, params_lib.combine(params, pair[1]))
    tables = automaton.symbol_V, automaton.next_SY, automaton.banned_SY
    return {
        "plain": (),
        "words": (words.Bans(*map(jnp.asarray, tables)),),
        "activation offset": (activations.Edited((offset,)),),
        "anti-only, an adapter": (added(anti, has_expert=False),),
        "contrast, 6 tokens": (
            contrast.Contrast(behind, jnp.float32(1.0), None, "logits", config.vocab_size),
        ),
        "experts, two adapters": (added(Branches.of_adaptations(adapted, params, pair)),),
        "GeDi, two adapters": (
            discriminator.Discriminated(
                (Branches.of_adaptations(adapted, params, pair),),
                omega=jnp.float32(30.0),
                bias=jnp.float32(2.0),
                scale=jnp.float32(1.0),
                filter_mass=jnp.float32(0.8),
                filter_threshold=jnp.float32(np.log(0.967273)),
                vocab_size=config.vocab_size,
                width=config.padded_vocab_size,
            ),
        ),
        "experts, three models": (added(*(Branches.of_model(adapted, of) for of in apart)),),
        _AHEAD: (
            subspace.Margins(
                lookahead=Lookahead(module, params, _CANDIDATES),
                normal_D=jnp.asarray(noise.normal(size=config.emb_dim), jnp.float32),
                centre_D=jnp.zeros(config.emb_dim),
                beta=jnp.float32(0.1),
                base_top_p=None,
                end_ids=(config.padded_vocab_size,),
                published=False,
            ),
        ),
    }


def _model(shape: str, dtype: str) -> tuple[TransformerLM, params_lib.Params]:
    vocab_size, width, heads, layers = _SHAPES[shape]
    config = TransformerConfig(
        vocab_size=vocab_size,
        emb_dim=width,
        num_heads=heads,
        num_layers=layers,
        mlp_dim=4 * width,
        max_length=256,
        dtype=dtype,
    )
    module = TransformerLM(config)
    return module, _random(module, 0)


def times(shape: str, rows: int, passes: int, dtype: str) -> None:
    """Prints how long each method decodes, against plain decoding in the same pass."""
    mesh = meshes.create_mesh()
    module, params = _model(shape, dtype)
    config = module.config
    methods = _methods(module, params)
    samples = min(_SAMPLES, rows)
    decoders = {
        name: decoding.Decoder(
            module,
            params,
            mesh,
            sampling=sampling.TopPSampling(0.9),
            max_new_tokens=_NEW_TOKENS,
            end_ids=(config.padded_vocab_size,),  # none: rows of equal length
            seed=0,
            steerings=of,
        )
        for name, of in methods.items()
    }
    prompts = [[2, *range(10, 9 + _PROMPT)]] * (rows // samples)
    names = [str(n) for n in range(len(prompts))]
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    worked: dict[str, list[float]] = {name: [] for name in decoders}
    print(f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f}; {config}", flush=True)
    for number in range(passes + 1):
        order = list(decoders) if number % 2 else list(decoders)[::-1]
        for name in order:
            start, before = time.perf_counter(), time.process_time()
            decoders[name](prompts, names, num_samples=samples, num_rows=len(prompts), bucket=16)
            if number:  # The first compiles.
                taken[name].append(time.perf_counter() - start)
                worked[name].append(time.process_time() - before)
    print(f"{rows} rows of {_NEW_TOKENS} tokens, {passes} passes; load {os.getloadavg()[0]:.1f}")
    for title, of in (("seconds", taken), ("processor seconds", worked)):
        print(f"{title}, times plain")
        for name, seconds in of.items():
            print(f"  {name:24}{statistics.median(seconds):8.3f}  {_ratio(seconds, of['plain'])}")
        three = _ratio(of["experts, three models"], of["experts, two adapters"])
        print(f"  three models over two adapters {three}")


def reading(shape: str, rows: int, passes: int, dtype: str) -> None:
    """Prints what a batch of texts costs under each method, in one pass and token by token."""
    module, params = _model(shape, dtype)
    noise, ends = np.random.default_rng(0), module.config.vocab_size
    length = module.config.max_length - _PROMPT
    arrays = (
        noise.integers(2, ends, (rows, _PROMPT)).astype(np.int32),
        np.full(rows, _PROMPT, np.int32),
        noise.integers(2, ends, (rows, length)).astype(np.int32),
    )
    at_once = jax.jit(one_pass.read, static_argnums=0)
    by_steps = jax.jit(scoring.read, static_argnums=0)
    print(
        f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f}; {rows} x {length} tokens"
    )
    for name, steerings in _methods(module, params).items():
        if name == _AHEAD:  # no distribution over all tokens
            continue
        taken: dict[str, list[float]] = {"once": [], "steps": []}
        said = {}
        for number in range(passes + 1):
            for how in taken:
                start = time.process_time()
                if how == "once":
                    read = at_once(module, params, steerings, one_pass.Text(*arrays))
                else:
                    read = by_steps(module, params, steerings, *arrays)
                said[how] = np.asarray(jax.block_until_ready(read)[0])
                if number:  # The first compiles.
                    taken[how].append(time.process_time() - start)
        possible = np.isfinite(said["steps"])
        apart = np.abs(np.where(possible, said["once"], 0) - np.where(possible, said["steps"], 0))
        once, steps = (statistics.median(seconds) for seconds in taken.values())
        print(
            f"  {name:24}{once:7.2f} s at once {steps:7.2f} s by steps  x {steps / once:.1f}"
            f"  at most {apart.max():.1e} nats apart",
            flush=True,
        )


def _ratio(seconds, others):
    ratios = [a / b for a, b in zip(seconds, others, strict=True)]
    return f"x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["budgets", "plane", "times", "reading"])
    parser.add_argument("run", nargs="?", default="runs/steering")
    parser.add_argument("--shape", choices=_SHAPES, default="gpt2")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--passes", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    if given.what in ("budgets", "plane"):
        (budgets if given.what == "budgets" else plane)(Path(given.run))
    else:
        measure = times if given.what == "times" else reading
        measure(given.shape, given.rows, given.passes, given.dtype)
