#!/usr/bin/env bash
# levanter's supervised format trains from the second token of an answer on, and on the next prompt's first token.
#
# Guess: of format "supervised" (mask_inputs is true by default: "loss is masked on prompt tokens") the tokens of
#   the answers are trained, all of them and nothing else, packed or not.
# Seen (levanter 1.2.dev1644, haliax 1.4.dev453, jax 0.7.2): the mask marks where answers stand, but a marked place is
#   where the next token is predicted (LmExample.from_prompt_and_completion and the chat format move it by one, this
#   format does not). The first token of each answer has no loss; behind its last token the model is taught the
#   first token of the next, unrelated prompt, which it cannot see, or padding. Of answers of one token
#   nothing at all is trained, and the loss that is logged is that of other prompts.
# Hurt: a classifier or judge that is fine-tuned to answer with one word learns none of its labels; of longer
#   answers the token that decides between refusal and compliance is never taught. Use the chat format, or
#   LmExample.from_prompt_and_completion.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.7.2 jaxlib==0.7.2 numpy==2.4.6 equinox==0.13.8 chex==0.1.91 optax==0.2.6 \
  jaxtyping==0.3.11 jmp==0.0.4 transformers==4.57.6 datasets==4.8.0 fsspec==2025.10.0 filelock==3.20.0 \
  protobuf==6.33.1 safetensors==0.6.2 tensorstore==0.1.86 ray==2.60.0 draccus==0.11.6 deepdiff==9.1.0 lenses==1.2.0 \
  gitpython==3.2.1 dataclasses-json==0.6.7 async-lru==2.4.0 rich==15.0.0 tqdm-loggable==0.4.1 braceexpand==0.1.7 \
  pytimeparse==1.1.10 humanfriendly==10.0 tblib==3.2.2 msgpack==1.2.4
"$work/venv/bin/pip" install --quiet --no-deps levanter==1.2.dev1644 haliax==1.4.dev453 aqtp==0.9.0 flax==0.11.2
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib.metadata import version

import haliax as hax
import jax
import numpy as np
from levanter.data.text import SupervisedLmDatasetFormat, dataset_for_format, preprocessor_for_format
from levanter.models.gpt2 import Gpt2Config
from levanter.models.lm_model import compute_next_token_loss
from levanter.store.cache import SerialCacheWriter
from levanter.utils.tree_utils import inference_mode
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print(*(f"{name} {version(name)}" for name in ("levanter", "haliax", "jax")))
WORDS = "<pad> </s> is it late cold yes no not really".split()
words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>")
config = Gpt2Config(seq_len=16, hidden_dim=16, num_layers=1, num_heads=2)
model = inference_mode(config.build(hax.Axis("vocab", len(WORDS)), key=jax.random.PRNGKey(0)), True)


def trained(name, pairs):
    """What levanter trains of these pairs in one packed row: the words, and those that it should train."""
    kind = SupervisedLmDatasetFormat(separate_with=" ")
    processor = preprocessor_for_format(kind, tokenizer)
    done = processor([{"prompt": prompt, "response": response} for prompt, response in pairs])
    rows = [dict(zip(done, map(np.atleast_1d, row))) for row in zip(*done.values())]
    with SerialCacheWriter(name, processor.output_exemplar) as writer:
        writer.write_batch(rows)
    data = dataset_for_format(
        kind, config.Pos, writer.result(), eos_id=tokenizer.eos_token_id, ignore_index=-100
    ).as_sync_dataset()
    assert len(data) == 1
    ids, mask = np.asarray(data[0].tokens.array), np.asarray(data[0].loss_mask.array).astype(bool)
    # By hand: a place that is marked has the loss of the token behind it.
    logits = np.asarray(model(data[0].tokens, data[0].attn_mask).array, np.float64)
    by_hand = np.log(np.exp(logits).sum(-1))[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
    losses = np.asarray(compute_next_token_loss(model, data[0], reduction=None).array)[:-1]
    assert np.abs(losses - by_hand * mask[:-1]).max() < 1e-4 and losses[mask[:-1]].min() > 0.1
    found = [WORDS[token] for token in ids[1:][mask[:-1]]]
    wanted = " ".join(response for _, response in pairs).split()
    print(f"{name}: answers {wanted}, trained {found}")
    return found, wanted


labels, _ = trained("labels", [("is it late", "yes"), ("it is cold", "no"), ("is it cold", "no")])
assert labels == ["it", "is", "<pad>"], "no longer so"
longer, _ = trained("longer", [("is it late", "no not really </s>"), ("it is cold", "yes </s>")])
assert longer == ["not", "really", "</s>", "it", "</s>", "<pad>"], "no longer so"
P
