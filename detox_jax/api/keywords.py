"""The settings of the verbs that take many, as keywords: their run files' macros in lower case.

`detox-jax VERB --help` says what each one does and its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from detox_jax.bad_records import BadRecords
    from detox_jax.models.adaptation import Adaptation
    from detox_jax.models.config import TransformerConfig
    from detox_jax.segmenters import Segmenter
    from detox_jax.training.frontier import Probe
    from detox_jax.training.objective import Objective


class TrainSettings(TypedDict, total=False):
    """Of `Model.train`, beside what the call makes of its arguments."""

    task_feature_lengths: Mapping[str, int]
    model: TransformerConfig | None
    adaptation: Adaptation | None
    bad_records: BadRecords
    chat_template: bool | str
    objective: Objective
    kl_to_base: float
    train_steps: int | None
    epochs: int | None
    batch_size: int
    accumulation_steps: int
    learning_rate: float
    random_seed: int
    checkpoint_period: int
    eval_period: int
    eval_steps: int
    probe: Probe | None
    strict: bool
    mesh_shape: Mapping[str, int] | None
    remat: str | None
    attention_kernel: str | None
    logits_chunk: int | None


class SgeatSettings(TypedDict, total=False):
    """Of `sgeat`, beside what the call makes of its arguments."""

    bad_records: BadRecords
    chat_template: bool | str
    num_documents: int
    document_max_new_tokens: int
    keep_fraction: float
    good_tag: str
    bad_tag: str
    between_tags: Sequence[str]
    tag_threshold: float
    untagged_share: float
    task_feature_lengths: Mapping[str, int]
    epochs: int | None
    train_steps: int | None
    batch_size: int
    accumulation_steps: int
    learning_rate: float
    adapter_learning_rate: float
    bottleneck_dim: int
    num_samples: int
    max_new_tokens: int
    generation_batch_size: int
    dtype: str | None
    downstream_tasks: Sequence[str]
    downstream_dir: str | None
    downstream_batch_size: int
    word_segmenter: Segmenter | None
    min_coverage: float
    random_seed: int
    mesh_shape: Mapping[str, int] | None
    remat: str | None
    attention_kernel: str | None
    logits_chunk: int | None
    methods: Mapping[str, Mapping[str, Any]] | None
    only: Sequence[str] | None
    frontiers: Mapping[str, Sequence[str]] | None
    frontiers_by: str
    adaptation: Adaptation | None
    vectors: Mapping[str, Mapping[str, Any]] | None
    probe: Probe | None
    score_cache: str
    replay_only: bool
    score_imports: Sequence[str]
    consent_to_send_text: bool
    queries_per_second: float


class EvaluateSettings(TypedDict, total=False):
    """Of `evaluate`, beside what the call makes of its arguments."""

    power: bool
    group_by: Sequence[str]
    word_segmenter: Segmenter | None
    batch_size: int
    mesh_shape: Mapping[str, int] | None
    min_coverage: float
    bootstrap_draws: int
    random_seed: int
