#!/usr/bin/env bash
# tunix's DPO trains answers behind a start token that no prompt has when it is continued, and cuts long prompts' ends.
#
# Guess: DPOTrainer(tokenizer=...) reads prompt and answer as one text, "<start> prompt answer", as its own Sampler
#   does when it continues the prompt; of a prompt above max_prompt_length the end, next to the answer, is kept.
# Seen (google-tunix 0.1.7, jax 0.10.2, sentencepiece 0.2.3): prompt and answer are each given a start token, so that
#   what is trained is "<start> prompt <start> answer", without an end token. A long prompt keeps its beginning,
#   and nothing is said. Here 40 steps raise the margin of chosen over rejected answers by 25 nats behind that second
#   start token, and by 17 where the Sampler reads them. A tokenizer of Hugging Face with a start token does the same.
#   A tokenizer whose start token is none, or is number 0, adds none.
# Hurt: rewards and accuracies in the log are of a text that the model never sees again; what was learnt reaches its
#   continuations in part, and the objective is blamed. Of a long dialogue the turn that is answered is what was cut
#   away. Hand over ids and masks of one's own (prompt_ids, prompt_mask, chosen_ids, ...), which are taken as
#   they are.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet google-tunix==0.1.7 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 \
  sentencepiece==0.2.3 qwix==0.1.8 google-metrax==0.2.4
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import random
from importlib import metadata

import jax.numpy as jnp
import optax
import sentencepiece
from flax import nnx
from tunix.generate import sampler
from tunix.models.llama3 import model as llama3
from tunix.rl import common
from tunix.sft.dpo import dpo_trainer

print(*(f"{name} {metadata.version(name)}" for name in ("google-tunix", "jax", "sentencepiece")))
draw = random.Random(0)
words = "the bus was late again and we walked home in the rain while it was dark outside nobody said a word".split()
with open("corpus.txt", "w") as file:
    file.writelines(" ".join(draw.choices(words, k=8)) + "\n" for _ in range(500))
sentencepiece.SentencePieceTrainer.train(
    input="corpus.txt", model_prefix="pieces", vocab_size=60, hard_vocab_limit=False, minloglevel=2,
    pad_id=0, eos_id=1, bos_id=2, unk_id=3,
)
tokenizer = sentencepiece.SentencePieceProcessor(model_file="pieces.model")
START = tokenizer.bos_id()
config = llama3.ModelConfig(
    num_layers=2, vocab_size=len(tokenizer), embed_dim=32, hidden_dim=64, num_heads=2, head_dim=16, num_kv_heads=2,
    rope_theta=10_000, norm_eps=1e-5,
)
model, reference = (llama3.Llama3(config, rngs=nnx.Rngs(0)) for _ in range(2))
prompts = [" ".join(draw.choices(words, k=4)) for _ in range(16)]
chosen, rejected = "we walked home", "nobody said a"
batch = {"prompts": prompts, "chosen_responses": [chosen] * 16, "rejected_responses": [rejected] * 16}
settings = dpo_trainer.DPOTrainingConfig(
    eval_every_n_steps=1000, max_steps=40, max_prompt_length=8, max_response_length=8
)
trainer = dpo_trainer.DPOTrainer(model, reference, optax.adam(3e-3), settings, tokenizer=tokenizer)
row = [int(token) for token in trainer._prepare_inputs(batch).input_ids[0] if token != tokenizer.pad_id()]
names = lambda ids: " ".join("<start>" if token == START else tokenizer.id_to_piece(token) for token in ids)
read = sampler.Sampler(model, tokenizer, sampler.CacheConfig(64, 2, 2, 16)).tokenize(prompts[0]).tolist()
print("trained:", names(row))
print("sampled:", names(read), "...")
long = {"prompts": ["we walked home and nobody said a word while it was late"], "chosen_responses": [chosen]}
cut = dpo_trainer.process_dpo_record(long | {"rejected_responses": [rejected]}, trainer.tokenizer, 8, 8).prompt_ids[0]
print("a long prompt:", names(cut.tolist()))
assert row == [START, *tokenizer.encode(prompts[0]), START, *tokenizer.encode(chosen)], "no longer so"
assert read == [START, *tokenizer.encode(prompts[0])]
assert cut.tolist() == [START, *tokenizer.encode(long["prompts"][0])][:8], "no longer so"


def margins(model, between):
    """By how much the chosen answer is likelier than the rejected one, in nats, with `between` behind the prompt."""
    total = 0.0
    for prompt in prompts:
        for sign, answer in ((1, chosen), (-1, rejected)):
            ids = jnp.array([[START, *tokenizer.encode(prompt), *between, *tokenizer.encode(answer)]])
            mask = jnp.ones(ids.shape, bool)
            tokens = common.get_per_token_logps(
                model, ids, common.build_positions_from_mask(mask), common.make_causal_attn_mask(mask),
                len(tokenizer.encode(answer)),
            )
            total += sign * float(tokens.sum())
    return total / len(prompts)


before = [margins(reference, between) for between in ([START], [])]
trainer.train([batch] * 40)
raised = [margins(trainer.model, between) - old for between, old in zip(([START], []), before)]
print(f"40 steps raise the margin by {raised[0]:.1f} behind a start token, by {raised[1]:.1f} as it is sampled")
assert raised[0] > raised[1] + 4, "no longer so"
P
