"""The whole method, killed again and again, ends with every file of an undisturbed run."""

import json
import random
import shutil
import time

import pytest

from tasks import demo_corpus
from tests.chaos import trees
from tests.chaos.counts import wanted
from tests.conftest import SENTENCES

pytestmark = pytest.mark.chaos

CLASS = "sgeat: kill -9 anywhere"
KILLS = wanted("CHAOS_SGEAT_KILLS", 40)
KILLS_A_RUN = 10
CONFIG = """
from __gin__ import dynamic_registration
from detox_jax import sgeat
from detox_jax import vocabulary
from detox_jax.models import config
from detox_jax.toxicity import lexicon
from detox_jax.toxicity import score
from detox_jax.training import fit
from detox_jax.training import loop
from detox_jax.training import train
from tasks import demo_corpus

include 'gin_configs/runs/sgeat.gin'

PREPARE = @demo_corpus.write_demo_corpus
TRAIN_VOCABULARY = @vocabulary.train_vocabulary
PRETRAIN = @pretrain/train.train
demo_corpus.write_demo_corpus.num_documents = 60
vocabulary.train_vocabulary.vocab_size = 300
config.TransformerConfig:
  vocab_size = 300
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
loop.Periods.checkpoint = 1

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
JUDGES = {'ngram': @ngram/score.score, 'lexicon': @lexicon/score.score}
lexicon/score.score.scorer = @lexicon.LexiconScorer()
"""


def _before():
    demo_corpus.NUM_HELDOUT = 24
    demo_corpus.PROMPT_POOLS = {"rude": 2, "inviting": 3, "neutral": 3}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = tmp_path_factory.mktemp("sgeat")
    (root / "small.gin").write_text(CONFIG)
    questions = [json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES]
    (root / "lambada.jsonl").write_text("".join(questions))
    return ["sgeat", f"--gin_file={root / 'small.gin'}", f"--gin.DOWNSTREAM_DIR={root}"]


def _left(forks, output):
    return {**trees.files_of(output, but=trees.TIMES), **trees.arrays_of(forks, output)}


def test_the_whole_method_killed_ends_as_if_undisturbed(forks, flags, counts, tmp_path):
    counts.begin(CLASS, 40, "kills")
    output = tmp_path / "run"  # The same for all: its name is in what results.json hashes.
    command = [*flags, f"--gin.OUTPUT_DIR={output}"]
    start = time.monotonic()
    ended = forks.run(command, before=_before, watched=output)
    assert ended.status == 0, ended.errors
    seconds, operations = time.monotonic() - start, ended.operations
    expected = _left(forks, output)
    chance = random.Random(0)
    done, run, wrong = 0, 0, []
    while done < KILLS:
        shutil.rmtree(output)
        kills, differing = 0, []
        while kills < min(KILLS_A_RUN, KILLS - done):
            # Each start does a part of the whole: what it may do before its end is a part too.
            if chance.random() < 0.5:
                at = 1 + int(operations * chance.random() * 2 / KILLS_A_RUN)
                ended = forks.run(command, before=_before, watched=output, kill_at=at)
            else:
                child = forks.start(command, before=_before)
                time.sleep(chance.random() * seconds * 2 / KILLS_A_RUN)
                child.signal()
                ended = child.wait()
            kills += ended.status == -9
            if ended.status != -9:
                differing += [f"exit {ended.status}: {ended.errors}"] if ended.status else []
                break
        ended = forks.run(command, before=_before)
        differing += [f"exit {ended.status}: {ended.errors}"] if ended.status else []
        differing += trees.differences(_left(forks, output), expected)
        counts.add(CLASS, kills, 0 if differing else kills)
        wrong += [f"run {run}: {what}" for what in differing]
        done, run = done + kills, run + 1
    assert not wrong
