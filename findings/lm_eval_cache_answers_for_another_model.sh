#!/usr/bin/env bash
# lm-evaluation-harness' request cache gives a second model the first one's answers.
#
# Guess: use_cache (--use_cache, "skips repeated inference") answers what was asked of the same model before, and
#   keeps the answers of several models apart, or refuses a path that holds those of another.
# Seen (lm_eval 0.4.13, transformers 5.24.0, torch 2.13.0): an answer's key is the kind of request and its arguments.
#   Of two GPT-2s with other weights under one path the second is never asked, and gets the first one's
#   perplexity to the last digit; without the cache it is another. No warning says so.
# Hurt: the scores before and after a detoxification agree exactly: "no cost in quality", measured on one model
#   twice. Give each model and each step a path of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet lm_eval==0.4.13 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME=$work/hub "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import json
import pathlib
from importlib import metadata

import torch
import transformers
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("lm_eval", "transformers", "torch")))
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<eos>": 0} | {symbol: i + 1 for i, symbol in enumerate(symbols)}
bytes_alone = Tokenizer(models.BPE(vocab=ids, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<eos>")
texts = [{"text": "The bus was late again."}, {"text": "It rained on the third day."}]
pathlib.Path("texts.json").write_text(json.dumps(texts))
pathlib.Path("tasks").mkdir()
pathlib.Path("tasks/texts.yaml").write_text("""
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: texts.json}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
""")
tasks = TaskManager(include_path="tasks", include_defaults=False)
asked = {}


class Counting(HFLM):
    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        asked[self.seed] = asked.get(self.seed, 0) + len(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm)


def perplexity(seed, use_cache):
    """Of a GPT-2 whose weights this seed drew."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(ids), n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0,
        eos_token_id=0, initializer_range=0.5,
    )
    model = Counting(transformers.GPT2LMHeadModel(config), tokenizer=tokenizer, device="cpu")
    model.seed = seed
    found = evaluator.simple_evaluate(
        model, tasks=["texts"], task_manager=tasks, use_cache=use_cache, bootstrap_iters=0
    )
    return found["results"]["texts"]["word_perplexity,none"]


alone = [perplexity(seed, None) for seed in (0, 1)]
asked.clear()
cached = [perplexity(seed, "cache/one") for seed in (0, 1)]
print(f"without a cache: {alone}\nwith a cache: {cached}\nrequests that each model saw: {asked}")
assert alone[0] != alone[1]
assert cached == [alone[0]] * 2 and asked == {0: len(texts)}, "no longer so"
print("as found")
P
