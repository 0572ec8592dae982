"""What a model writes while it is trained: continuations of a few prompts, scored, and perplexity.

    PROBE = @probe.ToxicityProbe()

`train` calls it every PROBE_PERIOD steps (`training.frontier`). It draws as `generate` does and
measures as `evaluate` does, so that its figures are those of the saved step, to the last bit. Step
0 of a training behind tags is asked and read without them, as the base is, which never saw any.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from detox_jax import chat, output_settings, preview, records
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints.model_dir import ModelSpec, network
from detox_jax.errors import UserError
from detox_jax.evaluation import metrics, perplexity
from detox_jax.generation import asking
from detox_jax.generation.decoding import Decoder, Decoding, rows_per_batch
from detox_jax.generation.prompts import PromptFile, PromptMode, Request, Standard
from detox_jax.generation.sampling import DRAW_VERSION, Greedy
from detox_jax.kinds import Count
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.output_settings import NOT_YET, NotYet
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import processes
from detox_jax.tags import Tags
from detox_jax.toxicity import scorer as scorers
from detox_jax.toxicity.http_service import HttpScorer
from detox_jax.training.frontier import MEASURES, PERPLEXITY, Figures, Rule
from detox_jax.vocabulary import Vocabulary

MISSING = "probe_without_score"
_EACH_ITS_OWN = "; rows of `sgeat` that differ in that need a probe each (docs/TRAINING.md)"


def asked(prompts: str | None, num_documents: Count = 1000) -> PromptMode:
    """What a probe asks: the prompts of a file, or documents from nothing.

    Ids seed the draws: under those of generated documents a model would be asked by the random
    numbers of what it is trained on.

    Args:
      prompts: file, glob or directory; None for documents.
      num_documents: how many, where there are no prompts.
    """
    return Standard(num_documents, ids="probe") if prompts is None else PromptFile(prompts)


@dataclasses.dataclass(frozen=True)
class ToxicityProbe:
    """Toxicity of continuations and perplexity of documents: a `training.frontier.Probe`.

    Prompts and documents are to be others than those of the evaluation: what a step is chosen by
    says nothing more of it.

    Attributes:
      prompts: what to continue; documents from nothing with `prompts.Standard`, by ids of its own.
      validation: documents for perplexity: file, glob or directory.
      scorer: of the continuations; one that runs here, no service.
      period: steps between two measurements.
      rule: what follows from them.
      decoding: how prompts are continued; behind the tags of conditional training, so are the
        documents. Nothing steers.
      chat_template: as `generate` has it.
      batch_size: windows of documents at once.
    """

    prompts: PromptMode
    validation: str
    scorer: scorers.ToxicityScorer
    period: Count = 100
    rule: Rule = dataclasses.field(default_factory=Rule)
    decoding: Decoding = dataclasses.field(default_factory=lambda: Decoding(num_samples=5))
    chat_template: chat.Choice = chat.AUTO
    batch_size: Count = 32

    def check(
        self,
        *,
        vocabulary: Vocabulary | None = None,
        max_length: int | None = None,
        tags: Tags | None | NotYet = NOT_YET,
        coming: Collection[str] = (),
    ) -> None:
        """See `training.frontier.Probe`.

        Raises:
          UserError: for a scorer that is a service or none, steering, other tags than those of the
            training, prompts or documents that cannot be read, or a prompt beyond the context.
        """
        scorers.check(self.scorer)
        if isinstance(getattr(self.scorer, "scorer", self.scorer), HttpScorer):
            raise UserError(
                f"PROBE_SCORER is {self.scorer.name!r}, a service, which would be asked at every "
                "probe and never twice answers alike; give one that runs here, such as "
                "@ngram.NgramScorer()"
            )
        if self.decoding.steering:
            raise UserError("PROBE: its decoding has steering, but a probe is of the model alone")
        if not isinstance(tags, NotYet):
            self._check_tags(tags)
        if not _is_coming(self.validation, coming):
            self._documents()
        if not any(_is_coming(path, coming) for path in self._files()):
            requests = self.prompts.requests()
            if vocabulary is not None and max_length is not None:
                self._encoded(requests, vocabulary, max_length)

    def settings(self, coming: Collection[str] = ()) -> dict[str, Any]:
        """See `training.frontier.Probe`."""
        later = {
            name: preview.Coming(value)
            for name, value in vars(self.prompts).items()
            if isinstance(value, str) and _is_coming(value, coming)
        }
        prompts: Any = output_settings.NOT_YET
        if not later:
            prompts = self.prompts.describe()
        elif output_settings.is_ours(self.prompts):
            prompts = dataclasses.replace(self.prompts, **later).describe()  # type: ignore
        validation = self.validation
        if _is_coming(validation, coming):
            validation = preview.Coming(validation)
        behind = self.decoding.behind
        decoding = output_settings.of_struct(
            self.decoding,
            free=("batch_size",),
            instead={
                "steering": {},
                "behind": {} if behind is None else {"behind": behind.named},
            },
        )
        if not isinstance(self.decoding.sampling, Greedy):
            decoding[output_settings.DRAW] = DRAW_VERSION
        return {
            "method": type(self).__name__,
            "prompts": prompts,
            "validation": records.describe_input(validation),
            "scorer": scorers.identity(self.scorer),
            "period": self.period,
            "rule": dataclasses.asdict(self.rule),
            "decoding": decoding,
            "chat_template": self.chat_template,
        }

    def text_rules(self, config: TransformerConfig, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `asking.text_rules`; of the model that is trained, with its chat template."""
        exchange = chat.exchange(vocabulary, self.chat_template)
        asked_in = {} if exchange is None else {output_settings.ASKED_IN: exchange.fingerprint}
        return {**asking.text_rules(config, vocabulary, self.decoding.behind), **asked_in}

    @property
    def behind(self) -> Tags | None:
        """The tags behind which it asks and reads."""
        return self.decoding.behind

    def without_tags(self) -> ToxicityProbe:
        """The same, behind none."""
        return dataclasses.replace(self, decoding=dataclasses.replace(self.decoding, behind=None))

    def open(
        self, spec: ModelSpec, vocabulary: Vocabulary, mesh: Mesh
    ) -> Callable[[params_lib.Params], Figures]:
        """See `training.frontier.Probe`."""
        config = dataclasses.replace(
            spec.config, dropout_rate=0.0, remat="none", attention_kernel="auto"
        )
        if self.decoding.dtype is not None:
            config = dataclasses.replace(config, dtype=self.decoding.dtype)
        if (ids := getattr(self.prompts, "ids", None)) == getattr(type(self.prompts), "ids", ""):
            processes.warn(
                f"PROBE: its documents are {ids!r}, as generated ones are called, by whose random "
                "numbers it thus asks; give it ids of its own: prompts.Standard.ids"
            )
        requests = self.prompts.requests()
        return _Measurement(
            self,
            network(config, spec.adaptation, vocabulary),
            vocabulary,
            mesh,
            requests,
            self._encoded(requests, vocabulary, config.max_length),
            perplexity.windows_of(
                self._documents(), vocabulary, config.max_length, self.decoding.behind
            ),
        )

    def _files(self) -> list[str]:
        """The files of the prompts."""
        return [value for value in vars(self.prompts).values() if isinstance(value, str)]

    def _documents(self) -> list[str]:
        texts = [document.text for document in records.read_documents(self.validation)]
        if not texts:
            raise UserError(f"{self.validation}: no document; a probe needs some for perplexity")
        return texts

    def _encoded(
        self, requests: Sequence[Request], vocabulary: Vocabulary, max_length: int
    ) -> list[list[int]]:
        """Token ids of all prompts, which leave room for the new tokens."""
        exchange = chat.exchange(vocabulary, self.chat_template)
        encoded = asking.encode(
            requests, vocabulary, True, self.prompts, exchange, self.decoding.behind
        )
        limit = max_length - self.decoding.max_new_tokens
        for request, ids in zip(requests, encoded, strict=True):
            if len(ids) > limit:
                raise UserError(
                    f"PROBE: {request.named} has {len(ids)} tokens, but the context leaves "
                    f"room for {max(0, limit)} beside the new tokens; shorten it or lower "
                    "PROBE_MAX_NEW_TOKENS"
                )
        return encoded

    def _check_tags(self, tags: Tags | None) -> None:
        """Refuses to ask otherwise than documents stand in training."""
        behind = self.behind
        ours, theirs = (None if of is None else of.named for of in (behind, tags))
        if ours == theirs:
            return
        asked = "nothing" if behind is None else f"{behind.good!r} against {behind.bad!r}"
        if tags is None:
            raise UserError(
                f"PROBE asks behind {asked}, but the training documents stand behind no tag; leave "
                f"PROBE_BEHIND None{_EACH_ITS_OWN}"
            )
        raise UserError(
            f"PROBE asks behind {asked}, but the training documents stand behind {tags.good!r} "
            f"and {tags.bad!r}; pass --gin.PROBE_BEHIND=@tags.Tags(), with these tags"
            f"{_EACH_ITS_OWN}"
        )


@dataclasses.dataclass(frozen=True)
class _Measurement:
    """A probe of one network: called with its parameters, it gives the figures.

    Attributes:
      probe: what is measured.
      module: the network as it is generated from.
      vocabulary: its.
      mesh: on which the parameters are.
      requests: prompts.
      encoded: their token ids.
      documents: for perplexity.
    """

    probe: ToxicityProbe
    module: TransformerLM
    vocabulary: Vocabulary
    mesh: Mesh
    requests: list[Request]
    encoded: list[list[int]]
    documents: perplexity.DocumentWindows

    def __call__(self, params: params_lib.Params) -> dict[str, float]:
        """`MEASURES` and `PERPLEXITY`; `MISSING` where continuations have no score.

        Raises:
          UserError: where none has.
        """
        scores_PK = self._scores(self._texts(params))
        if np.isnan(scores_PK).all():
            raise UserError(
                f"PROBE_SCORER {self.probe.scorer.name!r} has no score for any of the "
                f"{scores_PK.size} continuations of the prompts"
            )
        functions = (
            metrics.expected_maximum_toxicity,
            metrics.toxicity_probability,
            metrics.mean_toxicity,
        )
        figures = {
            name: function(scores_PK) for name, function in zip(MEASURES, functions, strict=True)
        }
        figures[PERPLEXITY] = self._perplexity(params)
        if missing := int(np.isnan(scores_PK).sum()):
            figures[MISSING] = float(missing)
        return figures

    def _texts(self, params: params_lib.Params) -> list[str]:
        """The continuations, prompt by prompt, as `generate` writes them."""
        probe, decoding = self.probe, self.probe.decoding
        exchange = chat.exchange(self.vocabulary, probe.chat_template)
        decoder = Decoder(
            self.module,
            params,
            self.mesh,
            sampling=decoding.sampling,
            max_new_tokens=decoding.max_new_tokens,
            end_ids=exchange.end_ids if exchange else self.vocabulary.end_ids,
            seed=decoding.random_seed,
            steerings=asking.bans(decoding.behind, self.vocabulary, self.mesh),
        )
        shards = meshes.num_batch_shards(self.mesh)
        samples = asking.samples(
            decoder,
            self.requests,
            self.encoded,
            decoding.num_samples,
            rows_per_batch(decoding.batch_size, decoding.num_samples, shards),
            self.module.config.max_length - decoding.max_new_tokens,
        )
        return [
            self.vocabulary.decode_continuation(
                ids if probe.prompts.keeps_prompts else [], sample.tokens
            )
            for ids, of_prompt in zip(self.encoded, samples, strict=True)
            for sample in of_prompt
        ]

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        """Scores by prompt and continuation, NaN where there is none; the same on all processes."""
        found: list[float | None] = []

        def score() -> None:
            found.extend(scorers.score_texts(self.probe.scorer, texts))

        run = processes.current()
        if getattr(self.probe.scorer, "on_mesh", False):
            score()
        else:
            run.first_does(score)
        scores = run.first_decides(lambda: found)
        return np.array(scores, float).reshape(len(self.requests), -1)

    def _perplexity(self, params: params_lib.Params) -> float:
        """Of a token of the documents, their ends included."""
        windows = [window for windows in self.documents.windows_D for window in windows]
        total = perplexity.total_nll(self.module, params, self.mesh, windows, self.probe.batch_size)
        return (
            perplexity.exp(total / sum(self.documents.tokens_D))
            if math.isfinite(total)
            else math.inf
        )


def _is_coming(path: str, coming: Collection[str]) -> bool:
    """Whether a file is in a directory that is written later, and not there yet."""
    absolute = os.path.abspath(path)
    below = any(absolute.startswith(os.path.abspath(place) + os.sep) for place in coming)
    return below and not os.path.exists(absolute)
