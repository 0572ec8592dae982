#!/usr/bin/env bash
# EasyDeL's SFT pads each text to full length before it packs: with packing="wrapped" padding is trained on as text.
#
# Guess: SFTConfig(packing=True, packing_strategy="wrapped") puts several texts into a row; with assistant_only_loss
#   prompts stay out of the loss, as they do without packing.
# Seen (easydel 0.3.0): SFTTrainer's transform pads to max_length, and what it packs afterwards is input_ids alone, into
#   rows of max_length. Each row is one padded text, without attention_mask and completion_mask, so that the model's
#   labels are all of it: 10 of 16 tokens in each row here are padding, 3 are prompt. "bfd", the default, makes rows of
#   17 beside a mask of 16 ones.
# Hurt: most of what the model learns is to follow padding with padding, and prompts that were to be left out (toxic
#   ones, say) are learnt. The loss looks splendid, since padding is easy, and nothing was packed. Tokenize and
#   pack before the trainer gets the texts, or leave packing off.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet easydel==0.3.0 jax==0.9.2 jaxlib==0.9.2 transformers==5.5.4 pillow==13.0.0
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import inspect
from importlib import metadata

import transformers
from easydel.data.transforms.pack import PackedShardedSource
from easydel.trainers.prompt_transforms import SFTPreprocessTransform
from easydel.trainers.supervised_fine_tuning_trainer import sft_trainer
from tokenizers import Tokenizer, models, pre_tokenizers

print("easydel", metadata.version("easydel"))
# What the trainer does, in this order: its transform, and then the packing, whose strategy has another name inside.
body = inspect.getsource(sft_trainer.SFTTrainer._apply_preprocess_transforms)
assert body.index("super()._apply_preprocess_transforms()") < body.index("PackedShardedSource(")
assert '"bfd": "first_fit", "wrapped": "greedy"' in body

words = ["[PAD]", "[EOS]"] + [f"w{i}" for i in range(40)]
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]")
transform = SFTPreprocessTransform(tokenizer=tokenizer, max_length=16, mask_prompt=True)


class Texts:
    shard_names = ("texts",)

    def open_shard(self, name):
        return (transform({"prompt": f"w{i} w2 w3 ", "completion": "w4 w5 "}) for i in range(6, 10))


single = next(Texts().open_shard("texts"))
print("one text:", {name: list(value) for name, value in single.items()})
assert sum(single["attention_mask"]) == 6 and sum(single["completion_mask"]) == 3
rows = {
    name: list(
        PackedShardedSource(
            source=Texts(), seq_length=16, eos_token_id=1, pad_token_id=0, strategy=strategy, include_segment_ids=True
        ).open_shard("packed_shard_0")
    )
    for name, strategy in (("wrapped", "greedy"), ("bfd", "first_fit"))
}
for name, packed in rows.items():
    print(f"{name}: {len(packed)} rows of 4 texts, with {sorted(packed[0])}; one is {packed[0]['input_ids'].tolist()}")
for row in rows["wrapped"]:
    assert set(row) == {"input_ids", "segment_ids"} and len(set(row["segment_ids"].tolist())) == 1
    assert row["input_ids"].shape == (16,) and (row["input_ids"] == 0).sum() == 10
assert len(rows["wrapped"]) == 4
assert all(row["input_ids"].shape == (17,) and row["attention_mask"].tolist() == [1] * 16 for row in rows["bfd"])
print("as found")
P
