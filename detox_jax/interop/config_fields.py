"""The fields of a Hugging Face config.json, each accounted for: mapped, ignorable or refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from etils import epath

from detox_jax.errors import UserError

# Fields that change no logit: names, special tokens (the tokenizer's files hold them), what only
# training or another task reads, and how the Hugging Face code runs.
_IGNORABLE = frozenset(
    """_attn_implementation _name_or_path activation_dropout architectures attention_dropout
    attn_pdrop bos_token_id cache_implementation chunk_size_feed_forward classifier_dropout
    dropout dtype embd_pdrop eos_token_id finetuning_task gradient_checkpointing hidden_dropout
    id2label is_decoder keys_to_ignore_at_inference label2id layerdrop model_type n_ctx
    output_attentions output_hidden_states output_past pad_token_id prefix pretraining_tp
    problem_type resid_pdrop return_dict sep_token_id summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params tokenizer_class
    torch_dtype transformers_version use_cache""".split()
)
# Fields of every family that must have a value that means "off"; families map some of them.
_OFF: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (False,),
    "layer_norm_elementwise_affine": (True,),
    "pruned_heads": ({},),
    "quantization_config": (None,),
    "reorder_and_upcast_attn": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "tie_encoder_decoder": (False,),
    "torchscript": (False,),
    "use_bfloat16": (False,),
    "use_bidirectional_attention": (False, None),
}


class Fields:
    """A config.json that remembers which of its fields were used.

    Attributes:
      where: names the file in errors.
    """

    def __init__(self, values: dict[str, Any], where: str):
        self._values = dict(values)
        self._seen: set[str] = set()
        self.where = where

    def take(self, name: str, default: Any) -> Any:
        """The field's value, or its default where it is absent."""
        self._seen.add(name)
        return self._values.get(name, default)

    def require(self, name: str) -> Any:
        """The field's value.

        Raises:
          UserError: if it is absent.
        """
        self._seen.add(name)
        if self._values.get(name) is None:
            raise UserError(f'{self.where}: has no "{name}"; put back the model\'s own config.json')
        return self._values[name]

    def expect(self, name: str, *allowed: Any) -> None:
        """Accepts the field only where it is absent or has one of the allowed values."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            self.refuse(name, value)

    def choose(self, name: str, default: str, choices: dict[str, str]) -> str:
        """Translates the field's value by a table."""
        value = self.take(name, default)
        if value not in choices:
            self.refuse(name, value, f"supported are {', '.join(sorted(choices))}")
        return choices[value]

    def refuse(
        self, name: str, value: Any, hint: str = "detox-jax has no such computation"
    ) -> NoReturn:
        """Raises the error for a field that is not supported."""
        raise UserError(f"{self.where}: {name} = {json.dumps(value)} is not supported; {hint}")

    def finish(self) -> None:
        """Refuses every field that nobody asked for and that may change the computation."""
        for name, value in self._values.items():
            if name in self._seen or name in _IGNORABLE:
                continue
            if name not in _OFF:
                self.refuse(name, value, "it is unknown here, and nothing is guessed")
            if value not in _OFF[name]:
                self.refuse(name, value)


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      UserError: if there is none or it is malformed.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: has no {path.name}; give a Hugging Face model directory")
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
