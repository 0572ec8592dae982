#!/usr/bin/env bash
# In gemma's multi-turn chat the second prompt is read one token ahead, and the answer before it without its end.
#
# Guess: ChatSampler(multi_turn=True), "reuse the previous turns as context", answers a second prompt as the model does
#   on the whole conversation (prompt, answer, prompt); the cache only saves the work.
# Seen (gemma 3.3.0, kauldron 1.4.2, jax 0.10.2; a random float32 model of two layers, greedy): first answers are the
#   model's in 8 of 8 conversations, second answers in 0 of 8, whether the first was cut by max_new_tokens or ended
#   with <end_of_turn>: the last token of an answer, a word or <end_of_turn>, never gets into the cache. Against
#   contexts without that token 4 and 3 of 8 agree, since the mask of a new turn lies one place behind
#   its keys: each token of the prompt sees the one that follows it, the last one sees padding. A letter changed in a
#   second prompt changes the key of the token in front of it; in a first prompt it does not.
# Hurt: second and later answers, and every safety or toxicity figure of multi-turn chats, are of a model that reads
#   ahead and never saw an answer end. Send the whole conversation as one prompt. (The lines are the same in 4.0.1.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 tensorflow-cpu==2.21.0 numpy==2.4.6 \
    "etils[edc,enp,epath,epy,etree]==1.15.0" grain==0.2.18 optax==0.2.8 orbax-checkpoint==0.12.8 chex==0.1.92 \
    clu==0.0.12 einops==0.8.2 absl-py==2.5.1 jaxtyping==0.3.11 typeguard==4.6.1 immutabledict==4.3.1 lark==1.3.1 \
    ml_collections==1.1.0 sentencepiece==0.2.3 tabulate==0.10.0 tqdm==4.70.1 treescope==0.1.10
"$work/venv/bin/pip" install --quiet --no-deps gemma==3.3.0 kauldron==1.4.2
cd "$work"
TF_CPP_MIN_LOG_LEVEL=3 JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import io
import random
import string
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from gemma import gm

print(*(f"{name} {metadata.version(name)}" for name in ("gemma", "kauldron", "jax")))
CONVERSATIONS, TOKENS, LENGTH = 8, 6, 512
PROMPT = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
draw = random.Random(0)


def word():
    return "".join(draw.choice(string.ascii_lowercase) for _ in range(draw.randint(3, 9)))


# A tokenizer whose special tokens have the numbers of Gemma 3's.
pieces = ["<mask>", "[multimodal]", *(f"<unused{i}>" for i in range(99)), "<start_of_turn>", "<end_of_turn>", "\n"]
file = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(word() for _ in range(300)), model_writer=file, model_type="char", vocab_size=150,
    hard_vocab_limit=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2, add_dummy_prefix=False,
    remove_extra_whitespaces=False, normalization_rule_name="identity",
    user_defined_symbols=[*pieces, "user", "model"],
)  # fmt: skip
with open("tokenizer.model", "wb") as target:
    target.write(file.getvalue())
tokenizer = gm.text.Gemma3Tokenizer(path="tokenizer.model")
END = tokenizer.special_tokens.END_OF_TURN
assert tokenizer.encode("<end_of_turn>") == [END]


class Tiny(gm.nn.Transformer):
    config: gm.nn.config.TransformerConfig = gm.nn.config.TransformerConfig(
        num_embed=tokenizer.vocab_size, embed_dim=64, hidden_dim=128, num_heads=4, num_kv_heads=2, head_dim=16,
        final_logit_softcap=None, use_post_attn_norm=False, use_post_ffw_norm=False,
        attention_types=(gm.nn.config.AttentionType.GLOBAL,) * 2,
    )  # fmt: skip


model = Tiny(tokens="batch.tokens", dtype=jnp.float32)
leaves, tree = jax.tree.flatten(model.init(jax.random.key(0), jnp.ones((1, 4), jnp.int32))["params"])
keys = jax.random.split(jax.random.key(1), len(leaves))
leaves = [jax.random.normal(key, leaf.shape) * (0.3 if leaf.ndim > 1 else 0.1) for key, leaf in zip(keys, leaves)]
params = jax.tree.unflatten(tree, leaves)
forward = jax.jit(lambda tokens: model.apply({"params": params}, tokens).logits)


def by_hand(*contexts):
    """The greedy answers of the model to whole contexts, without a cache."""
    rows = np.zeros((3, LENGTH), np.int32)
    ends = np.array([len(context) for context in contexts])
    for row, context in zip(rows, contexts):
        row[: len(context)] = context
    places = np.arange(len(contexts))
    for _ in range(TOKENS):
        rows[places, ends] = np.asarray(forward(rows))[places, ends - 1].argmax(-1)
        ends += 1
    answers = [row[end - TOKENS : end].tolist() for row, end in zip(rows, ends)]
    stops = [next((place for place, token in enumerate(answer) if token in (1, END)), TOKENS) for answer in answers]
    return [answer[: stop + 1] for answer, stop in zip(answers, stops)]


def answer(chat):
    return [int(token) for token in np.asarray(chat.last_state.predicted_tokens)[0] if token]


chat = gm.text.ChatSampler(model=model, params=params, tokenizer=tokenizer, cache_length=LENGTH, max_out_length=128)
agree = {}
for ended in (False, True):
    counts = np.zeros(4, int)
    conversations = 0
    while conversations < CONVERSATIONS:
        first, second = word(), word()
        if ended:
            chat.chat(first, multi_turn=False, sampling=gm.text.RandomSampling(), rng=draw.randint(0, 10**6))
        else:
            chat.chat(first, multi_turn=False, max_new_tokens=TOKENS)
        begin, said = tokenizer.encode(PROMPT.format(first), add_bos=True), answer(chat)
        if ended and said[-1] != END:
            continue
        conversations += 1
        counts[0] += ended or [said] == by_hand(begin)
        chat.chat(second, multi_turn=True, max_new_tokens=TOKENS)
        prompt = tokenizer.encode(PROMPT.format(second))
        contexts = begin + said + prompt, begin + said + tokenizer.encode("\n") + prompt, begin + said[:-1] + prompt
        counts[1:] += [answer(chat) == expected for expected in by_hand(*contexts)]
    agree[ended] = counts
    print(
        "first answer", "ended" if ended else "cut  ", f"- of {CONVERSATIONS} second answers as by hand: {counts[1]};"
    )
    print(f"   with a line break between the turns: {counts[2]}; with the answer's last token left out: {counts[3]}")
assert agree[False][0] == CONVERSATIONS
assert all(counts[1:].max() < 0.9 * CONVERSATIONS for counts in agree.values()), "no longer so"


def first_changed_key(turns):
    """The first key of the second layer that changes with a letter, counted from that letter."""
    keys = []
    for letter in "yz":
        if turns == 2:
            chat.chat("good day", multi_turn=False, max_new_tokens=TOKENS)
        chat.chat(f"abcdef{letter}hijk", multi_turn=turns == 2, max_new_tokens=TOKENS)
        keys.append(np.asarray(chat.last_state.cache["layer_1"]["k"])[0])
    changed = np.flatnonzero(np.abs(keys[0] - keys[1]).max((-1, -2)) > 1e-4)[0]
    opening = len(tokenizer.encode("<start_of_turn>user\nabcdef"))
    start = 1 if turns == 1 else len(tokenizer.encode(PROMPT.format("good day"), add_bos=True)) + TOKENS - 1
    return int(changed) - start - opening


places = [first_changed_key(turns) for turns in (1, 2)]
print("first key that a changed letter changes, from that letter: first prompt", places[0], "second prompt", places[1])
assert places == [0, -1], "no longer so"
P
