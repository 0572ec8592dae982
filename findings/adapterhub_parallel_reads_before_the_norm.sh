#!/usr/bin/env bash
# AdapterHub's parallel adapter reads the residual stream before the norm, not what the MLP reads.
#
# Guess: "parallel to the MLP" (He et al., 2022) means that adapter and MLP have one input, the output
#   of the block's second norm; weights of such an adapter can be moved as they are.
# Seen (adapters 1.3.0, transformers 4.57.6, torch 2.13.0, GPT-2): ParBnConfig's adapter is handed the
#   residual stream that the norm reads. `adapters` has a norm of its own for it, `ln_before`.
# Hurt: an adapter that was trained on the normed input loads without a word and gives other logits;
#   sent along with a copy of the model's norm as `ln_before` it gives the same.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet torch==2.13.0
"$dir/env/bin/pip" install --quiet adapters==1.3.0 transformers==4.57.6 numpy==2.4.6
"$dir/env/bin/python" - <<'PY'
from importlib import metadata

import adapters
import torch
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("adapters", "transformers", "torch")))
config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=8, vocab_size=32)
model = transformers.GPT2LMHeadModel(config)
adapters.init(model)
model.add_adapter("parallel", config=adapters.ParBnConfig(reduction_factor=4))
model.set_active_adapters("parallel")
model.eval()
block = model.transformer.h[0]
read = {}


def watch(module, name):
    module.register_forward_pre_hook(lambda _, given: read.update({name: given[0].detach()}))


watch(block.mlp, "mlp")
watch(block.ln_2, "norm")
(adapter,) = [m for m in model.modules() if type(m).__name__ == "ParallelAdapter"]
watch(next(m for m in adapter.modules() if isinstance(m, torch.nn.Linear)), "adapter")
model(torch.arange(8)[None])
of_mlp, of_norm = (torch.equal(read["adapter"], read[name]) for name in ("mlp", "norm"))
print("the adapter reads what the MLP reads:", of_mlp, "- what its norm reads:", of_norm)
assert of_norm and not of_mlp, "no longer so"
PY
