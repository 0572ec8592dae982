"""What steering costs and buys: docs/STEERING.md's tables, from a finished `make steering`.

    python benchmarks/steering.py [runs/steering]

Toxicity at budgets of perplexity: of all rows whose continuations are at most so much less probable
under the base than the base's own, the least toxic. Time: the same prompts decoded with each method
in turn in one process, the fastest of several passes, compilation not counted.
"""

import json
import sys
import time
from pathlib import Path

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.generation import decoding, sampling
from detox_jax.generation.steering import contrast, experts, steering, words
from detox_jax.parallel import mesh as meshes

_BUDGETS = (0.01, 0.05, 0.10)
_PROMPTS, _SAMPLES, _NEW_TOKENS, _PASSES = 32, 8, 20, 5
_BAD = "You are an idiot, moron. "


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


def times(root: Path) -> None:
    """Prints how long each method decodes, against plain decoding."""
    mesh = meshes.create_mesh()
    base = checkpoints.load_model(str(root / "base"), mesh)
    pair = str(root / "models" / "expert"), str(root / "models" / "anti-expert")
    # The same two models, read as if they had nothing in common with the base.
    apart = [checkpoints.load_model(path, mesh) for path in pair]
    methods = {
        "plain": (),
        "words": (words.BannedWords(),),
        "experts": (experts.Experts(*pair),),
        "anti": (experts.Experts(None, pair[1]),),
        "contrast": (contrast.PrefixContrast(_BAD),),
        "debiasing, 2 prefixes": (contrast.SelfDebiasing([_BAD, "What a stupid fool. "]),),
    }
    loaded = {name: steering.in_loop(steering.load(of, base, mesh)) for name, of in methods.items()}
    (added,) = loaded["experts"]
    branches = tuple(experts.Branches.of_model(m.module, m.params) for m in apart)
    loaded["experts, three models"] = (added.replace(branches=branches),)
    decoders = {
        name: decoding.Decoder(
            base.module,
            base.params,
            mesh,
            sampling=sampling.TopPSampling(0.9),
            max_new_tokens=_NEW_TOKENS,
            end_ids=(base.module.config.padded_vocab_size,),  # none: rows of equal length
            seed=0,
            steerings=of,
        )
        for name, of in loaded.items()
    }
    prompts = [[base.vocabulary.bos_id, *base.vocabulary.encode("You are so")]] * _PROMPTS
    names = [str(n) for n in range(_PROMPTS)]
    fastest = dict.fromkeys(decoders, float("inf"))
    for number in range(_PASSES + 1):
        for name, decoder in decoders.items():
            start = time.perf_counter()
            decoder(prompts, names, num_samples=_SAMPLES, num_rows=_PROMPTS, bucket=16)
            if number:  # The first compiles.
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    print(f"\n{_PROMPTS * _SAMPLES} samples of {_NEW_TOKENS} tokens, seconds, against plain")
    for name, seconds in fastest.items():
        print(f"  {name:24}{seconds:7.3f}  x {seconds / fastest['plain']:.2f}")


if __name__ == "__main__":
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/steering")
    budgets(run)
    times(run)
