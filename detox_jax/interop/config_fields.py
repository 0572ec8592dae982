"""The fields of a Hugging Face config.json, each accounted for: mapped, ignorable or refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn

from etils import epath

from detox_jax.errors import UserError, in_one_line, shortened
from detox_jax.formats import jsonl
from detox_jax.models import field_types

_SHOWN = 100  # characters of a value in an error

# Fields that change no logit: names, special tokens (the tokenizer's files hold them), what only
# training or another task reads, how the Hugging Face code runs, and what its models never read,
# such as `n_special` of gpt2-medium, `max_sequence_length` of LLaMA 1, `is_llama_config` of SmolLM,
# `total_flos` of what the trainer of transformers 3 saved.
_IGNORABLE = frozenset(
    """_attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _flash_attn_2_enabled _name_or_path _num_labels activation_dropout architectures
    attention_dropout attention_probs_dropout_prob attn_pdrop auto_map bos_token_id
    cache_implementation chunk_size_feed_forward classifier_dropout custom_pipelines dropout dtype
    embd_pdrop eos_token_id finetuning_task gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label is_decoder is_llama_config keys_to_ignore_at_inference label2id
    layerdrop max_sequence_length model_type n_ctx n_special num_labels output_attentions
    output_hidden_states output_past pad_token_id predict_special_tokens prefix pretraining_tp
    problem_type resid_pdrop return_dict sep_token_id summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params tokenizer_class
    torch_dtype total_flos transformers.js_config transformers_version unsloth_fixed unsloth_version
    use_cache""".split()
)
# How to generate, which configs held before generation_config.json.
_GENERATION = frozenset(
    """bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores
    remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature
    top_k top_p typical_p""".split()
)
# Fields of every family that must have a value that means "off"; families map some of them.
_OFF: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "layer_norm_elementwise_affine": (True,),
    "pruned_heads": ({},),
    "quantization": (None,),
    "quantization_config": (None,),
    "reorder_and_upcast_attn": (False,),
    "rope_interleaved": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "tie_encoder_decoder": (False,),
    "torchscript": (False,),
    "transformers_weights": (None,),
    "use_bfloat16": (False,),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False,),
}


class Fields:
    """A config.json that remembers which of its fields were used.

    Attributes:
      where: names the file in errors.
    """

    def __init__(
        self,
        values: dict[str, Any],
        where: str,
        ignored: Collection[str] | None = None,
        setting: str = "IGNORE_FIELDS",
    ):
        """Nothing is used yet.

        Args:
          values: of config.json.
          where: names the file in errors.
          ignored: unknown fields that the user says change nothing; None where none can be ignored.
          setting: that names them.
        """
        self._values = dict(values)
        self._seen: set[str] = set()
        self._ignored = ignored
        self._setting = setting
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
        if not isinstance(value, str) or value not in choices:
            self.refuse(name, value, f"supported are {', '.join(sorted(choices))}")
        return choices[value]

    def refuse(
        self, name: str, value: Any, hint: str = "detox-jax has no such computation"
    ) -> NoReturn:
        """Raises the error for a field that is not supported."""
        shown = shortened(json.dumps(value), _SHOWN)
        raise UserError(f"{self.where}: {name} = {shown} is not supported; {hint}")

    def finish(self) -> None:
        """Refuses every field that nobody asked for and that may change the computation."""
        known = self._seen | _IGNORABLE | _GENERATION
        for name in self._ignored or ():
            if name not in self._values:
                raise UserError(f"{self.where}: has no {name}, which {self._setting} names")
            if name in self._seen or name in _OFF:
                raise UserError(
                    f"{self.where}: {name} decides what is computed; take it out of {self._setting}"
                )
        left = {name: value for name, value in self._values.items() if name not in known}
        for name, value in left.items():
            if name in _OFF and value not in _OFF[name]:
                self.refuse(name, value)
        unknown = [name for name in left if name not in _OFF and name not in (self._ignored or ())]
        if unknown:
            hint = "it is unknown here, and nothing is guessed"
            if self._ignored is not None:
                names = [*self._ignored, *unknown]
                hint += f'; if it changes no logit, say so: --gin.{self._setting}="{names}"'
            self.refuse(unknown[0], left[unknown[0]], hint)


def ignored_names(fields: Sequence[str] | str, setting: str = "IGNORE_FIELDS") -> tuple[str, ...]:
    """The fields that a user says change nothing: a list of names, or names between commas.

    Args:
      fields: as they are given.
      setting: that gives them, for the error.

    Raises:
      UserError: for what is no name.
    """
    names = fields.split(",") if isinstance(fields, str) else fields
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{setting} is {fields!r}; give names: \"['first', 'second']\"")
    return tuple(name.strip() for name in names)


def named_type(values: dict[str, Any]) -> str:
    """The `model_type` of a config.json; no name where it is none."""
    name = values.get("model_type")
    return name if isinstance(name, str) else ""


def architectures(values: dict[str, Any], where: str, default: str) -> list[str]:
    """The classes that a config.json names.

    Args:
      values: of config.json.
      where: names the file in the error.
      default: where it names none.

    Raises:
      UserError: if it is no list of names.
    """
    names = values.get("architectures") or [default]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        shown = shortened(json.dumps(names), _SHOWN)
        raise UserError(f"{where}: architectures is {shown}; expected a list of names of classes")
    return names


@contextlib.contextmanager
def checked_config(where: str) -> Iterator[Callable[[Any], None]]:
    """Turns what a malformed config.json raises, while it is read, into one line.

    Yields what checks the config that was made of it.

    Raises:
      UserError: naming the file.
    """
    try:
        yield field_types.check
    except UserError as error:
        prefix = "" if str(error).startswith(where) else f"{where}: "
        raise UserError(f"{prefix}{error}") from None
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: malformed: {in_one_line(error)}") from None


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      UserError: if there is none or it is malformed.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: has no {path.name}; give a Hugging Face model directory")
    return jsonl.json_object(path.read_bytes(), str(path))
