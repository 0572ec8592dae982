"""A checkpoint as lm-evaluation-harness sees a model.

Ids are this package's, one above the tokenizer's own. What is special about tokens follows the
harness's own `hf` backend on the same model: where the tokenizer puts a start token before a text,
what stands for an empty context, what is cut.
"""

from __future__ import annotations

import collections
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from detox_jax import chat, output_settings, preview, tokenizer_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.generation.continuation import Continuer, Settings
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.output_settings import AROUND, TEMPLATE
from detox_jax.parallel import mesh as meshes
from detox_jax.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from detox_jax.vocabulary import ID_SHIFT, Vocabulary
from detox_jax.zero_shot import steered_likelihood

Ids = list[int]


def harness_model(checkpoint_path: str, **settings: Any) -> Any:
    """A checkpoint as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate(model=...)`.

    Args:
      checkpoint_path: of a whole model or an adaptation.
      **settings: see `HarnessModel`.

    Raises:
      UserError: if lm-evaluation-harness is not installed, or the checkpoint cannot be used.
    """
    base = import_harness().api.model.TemplateLM
    return type("DetoxJaxLM", (HarnessModel, base), {})(checkpoint_path, **settings)


def import_harness() -> Any:
    """The package `lm_eval`.

    Raises:
      UserError: if it is not installed.
    """
    try:
        importlib.import_module("lm_eval.api.model")
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise UserError(
            f"lm-evaluation-harness cannot be loaded ({error}); pip install 'detox-jax[lm-eval]'"
        ) from None


class HarnessModel:
    """What the harness asks of a model; `harness_model` joins it with the harness's own class.

    Every process of a pod gets all requests, computes the same, and has all answers.

    Args:
      checkpoint_path: of a whole model or an adaptation.
      batch_size: rows at once.
      max_length: tokens that are read at once; all that the model can where None.
      max_gen_toks: new tokens of a task that names no limit.
      add_bos: whether the start token stands before every text; as the tokenizer says where None.
      chat_template_name: which of several chat templates.
      random_seed: of draws.
      dtype: of activations; the checkpoint's where None.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      steering: methods that change the distribution that is read and drawn from, in their order.

    Raises:
      UserError: if the checkpoint cannot be used, or `max_length` exceeds what it reads.
    """

    tokenizer = None
    backend = "causal"
    cache_hook: Any  # Of the harness's class.

    def __init__(
        self,
        checkpoint_path: str,
        batch_size: int = 32,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos: bool | None = None,
        chat_template_name: str | None = None,
        random_seed: int = 0,
        dtype: str | None = None,
        mesh_shape: Mapping[str, int] | None = None,
        steering: Sequence[steering_lib.Method] = (),
    ):
        super().__init__()
        mesh = meshes.create_mesh(mesh_shape)
        loaded = checkpoints.load_model(checkpoint_path, mesh, dtype)
        most = loaded.module.config.max_length
        if not 2 <= (most if max_length is None else max_length) <= most or batch_size < 1:
            raise UserError(
                f"MAX_LENGTH is {max_length} and BATCH_SIZE {batch_size}; {checkpoint_path} reads "
                f"2 to {most} tokens, and a batch has at least one row"
            )
        scoring.require_scored("a model of the harness", steering)
        self.methods = steering_lib.load(steering, loaded, mesh)
        self.max_length = steering_lib.longest(self.methods, max_length or most)
        self.max_gen_toks = max_gen_toks
        self.batch_size = batch_size
        self.vocabulary = loaded.vocabulary
        self.fingerprint = loaded.fingerprint
        files = tokenizer_files.read(checkpoints.vocabulary_dir(checkpoint_path))
        self._files = files.files
        self._chat_template_name = chat_template_name
        before, after = tokens_around(files, add_bos)
        self._prefix_id = prefix_id(self.vocabulary)
        self._before, self._after = ([i + ID_SHIFT for i in ids] for ids in (before, after))
        self._loaded = loaded
        self._reader = steered_likelihood.reader(
            loaded, self.methods, mesh, batch_size, self.max_length
        )
        self._continuer = Continuer(
            loaded,
            mesh,
            batch_size,
            self.max_length,
            random_seed,
            steering_lib.in_loop(self.methods),
        )

    # --- tokens ---

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without context."""
        return self._prefix_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """The ids of a text, see `encode_texts`."""
        del kwargs
        return self.encode_texts([string], add_special_tokens)[0]

    def encode_texts(
        self, texts: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[Ids]:
        """The ids of texts, with the tokens that belong around a text.

        Args:
          texts: of which those that already start with the start token get no other.
          add_special_tokens: whether they are added at all; whatever a text starts with, if True.
        """
        start = self.vocabulary.id_to_token(self.prefix_token_id)
        encoded = self.vocabulary.encode_batch(texts)
        if add_special_tokens is False or not (self._before or self._after):
            return encoded
        return [
            ids
            if add_special_tokens is None and start and text.startswith(start)
            else [*self._before, *ids, *self._after]
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Context and continuation as ids, the two tokenized together and then taken apart."""
        pairs = [move_spaces(*pair) for pair in pairs]
        # Contexts repeat; each text is encoded once, all of them in parallel.
        texts = list(dict.fromkeys(text for c, t in pairs if c for text in (c, c + t)))
        ids_of = dict(zip(texts, self.encode_texts(texts), strict=True))
        alone = list(dict.fromkeys(text for context, text in pairs if not context))
        alone_ids = dict(zip(alone, self.encode_texts(alone, False), strict=True))
        encoded = []
        for context, text in pairs:
            if context:
                ids = ids_of[context]
                encoded.append((ids, ids_of[context + text][len(ids) :]))
                continue
            ids = alone_ids[text]
            given = 1 if ids[:1] == [self.prefix_token_id] else 0
            encoded.append(([self.prefix_token_id], ids[given:]))
        return encoded

    # --- requests ---

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Of each request's continuation after its context: log-probability, and is it greedy."""
        pairs = [request.args for request in requests]
        encoded = self.encode_pairs(pairs)
        tokens = [(pair, *ids) for pair, ids in zip(pairs, encoded, strict=True)]
        return self._loglikelihood_tokens(tokens, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The same of ids; the first of each triple names it for the harness's cache."""
        del kwargs
        likelihoods = self._reader(
            [(context, continuation) for _, context, continuation in requests]
        )
        answers = [(read.log_probability, read.is_greedy) for read in likelihoods]
        for (name, _, _), answer in zip(requests, answers, strict=True):
            if name is not None:
                self._remember("loglikelihood", name, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of whole texts, each token read with as much before it as fits."""
        texts = [request.args[0] for request in requests]
        windows, owners = [], []
        for number, ids in enumerate(self.encode_texts(texts)):
            of_text = rolling_windows(ids, self.prefix_token_id, self.max_length)
            windows += [(None, *window) for window in of_text]
            owners += [number] * len(of_text)
        totals = [0.0] * len(texts)
        answers = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for number, (log_probability, _) in zip(owners, answers, strict=True):
            totals[number] += log_probability
        for text, total in zip(texts, totals, strict=True):
            self._remember("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to a stop string."""
        del disable_tqdm
        contexts = [request.args[0] for request in requests]
        encoded = [ids or [self.prefix_token_id] for ids in self.encode_texts(contexts)]
        seen: collections.Counter[str] = collections.Counter()
        names, groups = [], collections.defaultdict(list)
        for number, request in enumerate(requests):
            group = json.dumps(request.args[1], sort_keys=True, default=str)
            key = hashlib.sha256(f"{group}\n{contexts[number]}".encode()).hexdigest()
            names.append(f"{key} {seen[key]}")  # A repeated request is another draw.
            seen[key] += 1
            groups[group].append(number)
        texts = [""] * len(requests)
        for members in groups.values():
            settings = Settings.parse(requests[members[0]].args[1], self.max_gen_toks)
            continuations = self._continuer(
                [encoded[i] for i in members], [names[i] for i in members], settings
            )
            for number, text in zip(members, continuations, strict=True):
                texts[number] = text
                self._remember("generate_until", requests[number].args, text)
        return texts

    def _remember(self, kind: str, request: Any, answer: Any) -> None:
        self.cache_hook.add_partial(kind, request, answer)

    # --- conversations ---

    @property
    def tokenizer_name(self) -> str:
        """Names tokenizer and template in the harness's cache of requests."""
        template = self.chat_template(True) or ""
        digest = hashlib.sha256(f"{self._before}{self._after}{template}".encode()).hexdigest()
        return f"detox-jax-{self.vocabulary.fingerprint}-{digest[:8]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, one of several where a name is given; None where none is wanted."""
        if chat_template is False or chat_template is None:
            return None
        name = self._chat_template_name if chat_template is True else chat_template
        return _template(self._files, name)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the text that the model is given."""
        template = self.chat_template(True)
        if template is None:
            raise UserError(
                "the tokenizer has no chat template; put chat_template.jinja into the checkpoint's "
                "vocabulary directory, or leave APPLY_CHAT_TEMPLATE out"
            )
        tokens = chat.special_tokens(self._files, self.vocabulary)
        return chat.render(template, chat_history, answer_next=add_generation_prompt, **tokens)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes of a model beside its results."""
        return {
            "model_num_parameters": params_lib.count(self._loaded.params),
            "model_dtype": self._loaded.module.config.dtype,
            "model_fingerprint": self.fingerprint,
        }


# --- the harness's conventions ------------------------------------------------------------------


def move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the end of a context belong to the continuation, whose first token holds them."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def rolling_windows(ids: Sequence[int], prefix: int, max_length: int) -> list[tuple[Ids, Ids]]:
    """`(context, scored)` windows of at most `max_length` inputs that score every id once.

    The last window reaches back as far as fits, so that its few ids have a long context.
    """
    windows: list[tuple[Ids, Ids]] = []
    for start in range(0, len(ids), max_length):
        end = min(start + max_length, len(ids))
        context = list(ids[end - max_length - 1 : start]) if start else [prefix]
        windows.append((context, list(ids[start:end])))
    return windows


def prefix_id(vocabulary: Vocabulary) -> int:
    """What stands for an empty context: the start token, else the end, as in `hf` of 0.4.13.

    A tokenizer may have no start token for transformers, and another token than the end before a
    document here: Qwen2.5's has a null for `bos_token`.
    """
    has_start = "bos_token" in chat.special_tokens(vocabulary.files, vocabulary)
    return vocabulary.bos_id if has_start else vocabulary.eos_id


def tokens_around(files: tokenizer_files.TokenizerFiles, add_bos: bool | None) -> tuple[Ids, Ids]:
    """The tokenizer's own ids before and behind every text.

    Args:
      files: of the tokenizer.
      add_bos: see `HarnessModel`.
    """
    before, after = added_tokens(files)
    return (before if add_bos is None else [files.bos] * add_bos), after


def asked_in(
    checkpoint_path: str, add_bos: bool | None, template: bool | str = False
) -> dict[str, Any]:
    """What stands around what a model is asked, which no fingerprint of its knows; for settings.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      add_bos: see `HarnessModel`.
      template: whether it is asked in its chat template; which of several where it is a name.

    Raises:
      UserError: if there is no such checkpoint, or its tokenizer cannot be read.
    """
    if isinstance(checkpoint_path, preview.Coming):
        return dict.fromkeys((AROUND, TEMPLATE) if template else (AROUND,), output_settings.NOT_YET)
    files = tokenizer_files.read(checkpoints.vocabulary_dir(checkpoint_path))
    vocabulary = Vocabulary(files)
    before, after = tokens_around(files, add_bos)
    around = {AROUND: [before, after, [prefix_id(vocabulary) - ID_SHIFT]]}
    if not template:
        return around
    text = _template(files.files, template if isinstance(template, str) else None)
    tokens = chat.special_tokens(files.files, vocabulary)
    return {**around, TEMPLATE: text and chat.Exchange(text, tokens, vocabulary).fingerprint}


def _template(files: Mapping[str, bytes], name: str | None) -> str | None:
    """The chat template of a tokenizer, one of several where a name is given."""
    return chat.read_template(files, name, remedy="name one of them: APPLY_CHAT_TEMPLATE")


def added_tokens(files: tokenizer_files.TokenizerFiles) -> tuple[Ids, Ids]:
    """The tokenizer's own ids that it puts before and behind every text.

    As in transformers 5: the post-processor of `tokenizer.json` decides, and only without that file
    what `tokenizer_config.json` says.
    """
    if TOKENIZER_FILE not in files.files:
        config = json.loads(files.files.get(TOKENIZER_CONFIG_FILE, b"{}"))
        bos, eos = map(files.codec.id_to_token, (files.bos, files.eos))
        has_start = "bos_token" in tokenizer_files.special_tokens(files.files, bos, eos)
        before = [files.bos] if config.get("add_bos_token") and has_start else []
        return before, [files.eos] if config.get("add_eos_token") else []
    tokenizer = tokenizers.Tokenizer.from_str(files.files[TOKENIZER_FILE].decode())
    tokenizer.no_padding()
    around = tokenizer.encode("", add_special_tokens=True).ids
    ends = around[-1:] == [files.eos] and files.eos != files.bos
    return (around[:-1], around[-1:]) if ends else (around, [])
