"""Every argument of every verb decides what is written, or is known not to.

A new parameter is in neither group and fails here: does a rerun with another value of it have to
begin anew (DECIDES), or may it go on with what is there (FREE, in the verb's module)?
"""

import dataclasses
import importlib
import inspect

import pytest

from detox_jax import cli
from detox_jax.generation.decoding import Decoding

DECIDES = {
    "train": "model mixture_or_task_name task_feature_lengths budget initial_checkpoint_path "
    "adaptation optimizer batch_size random_seed computation cache_dir objective probe",
    "plan": "model adaptation topology search checkpoint_dtype optimizer task_feature_lengths "
    "batch_size computation generations run compiler_effort",
    "evaluate": "methods baseline heldout reference min_coverage bootstrap_draws random_seed "
    "group_by word_segmenter",
    "compare": "scores bootstrap_draws random_seed",
    "report": "results frontiers frontiers_by seeds",
    "human_sheets": "methods baseline pairs num_prompts toxic_share samples_per_prompt raters "
    "own_decoding random_seed",
    "human_results": "key sheets allow_missing bootstrap_draws random_seed",
    "generate": "checkpoint_path prompts decoding shard_size start_with_end_of_text chat_template",
    "score": "input scorer bad_records",
    "steer": "checkpoint_path input fit margin most_pairs dtype",
    "pair": "input pairing reference",
    "combine": "base terms edit merge",
    "panel": "methods groups baseline reference bootstrap_draws random_seed",
    "filter": "input selection seed size_of lengths_of size_share apart_from "
    "word_segmenter bad_records",
    "train_vocabulary": "documents vocab_size bad_records",
    "fit_subspace": "checkpoint_path input threshold most_texts places dtype",
    "train_linear": "checkpoint_path task budget rank scale spread threshold length optimizer "
    "batch_size random_seed",
    "train_reward": "checkpoint_path task budget length optimizer batch_size random_seed "
    "computation",
    "choices": "checkpoint_path tasks start_with_bos dtype steering",
    "lm_eval": "checkpoint_path tasks num_fewshot limit include_path max_length max_gen_toks "
    "gen_kwargs add_bos apply_chat_template system_instruction fewshot_as_multiturn log_samples "
    "bootstrap_draws random_seed dtype steering",
}
# Verbs whose outputs are those of other verbs, or of the strategy that they are given.
OTHERS = {"convert", "sgeat", "sweep", "train_scorer"}


@pytest.mark.parametrize("verb", DECIDES)
def test_every_argument_is_in_one_group(verb):
    module = importlib.import_module(cli.VERBS[verb])
    names = list(inspect.signature(getattr(module, verb)).parameters)
    decides = DECIDES[verb].split()
    assert sorted([*decides, *module.FREE]) == sorted(names)


def test_no_verb_is_left_out():
    assert {*DECIDES, *OTHERS} == set(cli.VERBS)


def test_every_field_of_a_decoding_is_in_one_group():
    decides = [
        "sampling",
        "max_new_tokens",
        "num_samples",
        "random_seed",
        "dtype",
        "steering",
        "behind",
    ]
    assert sorted([*decides, "batch_size"]) == sorted(f.name for f in dataclasses.fields(Decoding))
