#!/usr/bin/env bash
# transformers 5 draws from the 50 likeliest tokens where generation_config.json says "top_k": null; 4 drew from all.
#
# Guess: None is how top-k is switched off: a model that was saved with `GenerationConfig(do_sample=True,
#   top_k=None)` draws from its whole vocabulary, under transformers 4 and 5, and as `generate(top_k=None)` does.
# Seen (saved by 4.57.6, read by 5.24.0, torch 2.13.0): the file keeps its null. Under 4 no token is out of reach;
#   under 5 none beyond the fiftieth is ever drawn, while `model.generation_config.top_k` is None, and so it
#   is after `model.generation_config.top_k = None`. `generate(top_k=None)` does switch it off, as does 0
#   wherever it stands. A config without the field says None now as well, where 4 said 50.
# Hurt: samples "at temperature 1" or "of the nucleus of 0.9" come from a second, hidden truncation. Rare tokens are
#   where much toxic text starts, so toxicity and perplexity fall with an update of a library, and are compared with
#   those of samplers that have no such default. Write 0, and not null.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
cat > "$work/drawn.py" <<'P'
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
if sys.argv[1] == "save":
    config = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=8, vocab_size=1_000, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config = transformers.GenerationConfig(do_sample=True, top_k=None, pad_token_id=0)
    model.save_pretrained("model")
    assert '"top_k": null' in open("model/generation_config.json").read()
model = transformers.GPT2LMHeadModel.from_pretrained("model").eval()
assert model.generation_config.top_k is None
rows = torch.ones(1_000, 3, dtype=torch.long)


def drawn(**settings):
    """The different tokens of 1,000 draws, of a vocabulary of 1,000."""
    transformers.set_seed(0)
    new = model.generate(
        rows, attention_mask=torch.ones_like(rows), do_sample=True, max_new_tokens=1, **settings
    )
    return len(set(new[:, -1].tolist()))


print(
    "transformers", transformers.__version__, "torch", torch.__version__,
    "GenerationConfig().top_k:", transformers.GenerationConfig().top_k,
)
found = {
    "the file's null": drawn(),
    "null, top_p=0.99": drawn(top_p=0.99),
    "generate(top_k=None)": drawn(top_k=None),
    "generate(top_k=0)": drawn(top_k=0),
}
print("different tokens in 1,000 draws:", found)
by_file = [found.pop("the file's null"), found.pop("null, top_p=0.99")]
assert min(found.values()) > 500, "no longer so"
if sys.argv[1] == "save":
    assert min(by_file) > 500, "no longer so"
else:
    assert by_file == [50, 50], "no longer so"
P
cd "$work"
"$work/venv/bin/pip" install --quiet transformers==4.57.6
HF_HUB_OFFLINE=1 "$work/venv/bin/python" drawn.py save
"$work/venv/bin/pip" install --quiet transformers==5.24.0
HF_HUB_OFFLINE=1 "$work/venv/bin/python" drawn.py read 2>errors || { cat errors; exit 1; }
echo "as found"
