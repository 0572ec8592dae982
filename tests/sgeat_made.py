"""The whole method in the smallest sizes, for the tests that run all of its steps."""

import json
from pathlib import Path

from tests.conftest import SENTENCES

# What `CONFIG` names, to be imported above it.
IMPORTS = """
from __gin__ import dynamic_registration
from detox_jax import sgeat
from detox_jax import vocabulary
from detox_jax.models import config
from detox_jax.toxicity import score
from detox_jax.training import fit
from detox_jax.training import loop
from detox_jax.training import train
from tasks import demo_corpus
"""
CONFIG = """
include 'gin_configs/runs/sgeat.gin'

PREPARE = @demo_corpus.write_demo_corpus
TRAIN_VOCABULARY = @vocabulary.train_vocabulary
PRETRAIN = @pretrain/train.train
demo_corpus.write_demo_corpus.num_documents = 60
vocabulary.train_vocabulary.vocab_size = 400
config.TransformerConfig:
  vocab_size = 400
  num_layers = 1
  emb_dim = 16
  num_heads = 2
  mlp_dim = 32
  max_length = 64
pretrain/train.train:
  model = @config.TransformerConfig()
  batch_size = 8
pretrain/fit.Budget:
  epochs = None
  train_steps = 3
loop.Periods.eval = 0

NUM_DOCUMENTS = 24
DOCUMENT_MAX_NEW_TOKENS = 8
TASK_FEATURE_LENGTHS = {'targets': 32}
EPOCHS = None
TRAIN_STEPS = 2
BATCH_SIZE = 8
BOTTLENECK_DIM = 4
NUM_SAMPLES = 2
MAX_NEW_TOKENS = 4
GENERATION_BATCH_SIZE = 128
DOWNSTREAM_TASKS = ('lambada',)
"""
# Of `tasks.demo_corpus`, by the name of its constant.
DEMO_CORPUS = {"NUM_HELDOUT": 24, "PROMPT_POOLS": {"rude": 2, "inviting": 3, "neutral": 3}}


def write_questions(root: Path) -> None:
    """What DOWNSTREAM_TASKS reads."""
    questions = [json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES]
    (root / "lambada.jsonl").write_text("".join(questions))
