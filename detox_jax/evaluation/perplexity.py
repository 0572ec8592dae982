"""Perplexity under a checkpoint, by token and by word: of documents, and of continuations."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from detox_jax import chat, output_settings, records, segmenters, terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.evaluation.rows import ContinuationPerplexity, Perplexity
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.generation.steering.steering import Loaded, Method
from detox_jax.parallel import mesh as meshes
from detox_jax.segmenters import Segmenter
from detox_jax.tags import Tags
from detox_jax.training import losses
from detox_jax.vocabulary import Vocabulary

Window = tuple[Sequence[int], int]
_LOGITS_CHUNK = 128  # Positions; the logits of long windows over a real vocabulary are gigabytes.


def checkpoint_perplexity(
    checkpoint_path: str,
    documents: str,
    batch_size: int = 32,
    mesh_shape: Mapping[str, int] | None = None,
    steering: Sequence[Method] = (),
    steered_by: Sequence[Any] | None = None,
    behind: Tags | None = None,
    loaded: checkpoints.LoadedModel | None = None,
    segmenter: Segmenter | None = None,
) -> Perplexity:
    """The perplexity of documents, each read from its start token to its end-of-text.

    A document longer than the context is read in windows that overlap by half, each token scored
    once, with at least half a context before it. Under methods that steer, each token's
    probability is the one that it is drawn with before any sampling.

    Args:
      checkpoint_path: the model.
      documents: JSON Lines documents: file, glob or directory.
      batch_size: windows at once.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      steering: methods that change the distribution, in their order; all must be a distribution
        over all tokens (`scoring.why_unscored`).
      steered_by: their settings in a manifest, with which they must agree; None where none says.
      behind: tags with which the model was trained: every window is read behind the good one, of
        which no token is scored or counted.
      loaded: the checkpoint on this mesh, where Python holds it already.
      segmenter: of words; white space alone where None.

    Returns:
      Exp of the mean negative log-likelihood in nats of a token, end-of-text included, and of the
      same sum spread over white-space words and document ends, which compares models of different
      vocabularies; with the counts. Documents that the methods ban are counted apart.

    Raises:
      UserError: for documents without text; for a method that does not fit the model, or is not
        the one of the manifest.
    """
    mesh = meshes.create_mesh(mesh_shape)
    loaded = loaded or checkpoints.load_model(checkpoint_path, mesh, exact=True)
    methods = steering_lib.load(steering, loaded, mesh)
    if steered_by is not None:
        _require_same(methods, steered_by)
    texts = [document.text for document in records.read_documents(documents)]
    if not any(text.strip() for text in texts):  # The end of a text alone would be a figure too.
        raise UserError(f"{documents}: holds no text; there is nothing to read")
    context = loaded.module.config.max_length
    steered = scoring.steered_texts(loaded, methods, mesh, batch_size, context)
    context = context if steered is None else steered.max_length
    read = windows_of(texts, loaded.vocabulary, context, behind)
    windows_D, tokens_D = read.windows_D, read.tokens_D
    if steered is None:
        windows = [window for windows in windows_D for window in windows]
        total = _total_nll(loaded, mesh, windows, batch_size, documents, checkpoint_path)
        possible = range(len(texts))
    else:
        nll_D = _steered_nll(steered, windows_D, f"{checkpoint_path} on {documents}")
        possible = np.flatnonzero(np.isfinite(nll_D))
        total = math.fsum(nll_D[possible])
    words = sum(segmenters.num_words(texts[d], segmenter) + 1 for d in possible)
    tokens = sum(tokens_D[d] for d in possible)
    impossible = len(texts) - len(possible)
    if impossible and not tokens:
        return Perplexity(math.inf, math.inf, 0, 0, documents=0, impossible=impossible)
    per_unit = _per_unit(total, tokens, words)
    return Perplexity(*per_unit, documents=len(possible), impossible=impossible)


@dataclasses.dataclass(frozen=True)
class DocumentWindows:
    """Documents as a model reads them.

    Attributes:
      windows_D: of each document, in its order.
      tokens_D: how many tokens of each are scored, its end-of-text included.
    """

    windows_D: list[list[Window]]
    tokens_D: list[int]


def windows_of(
    texts: Sequence[str], vocabulary: Vocabulary, context: int, behind: Tags | None = None
) -> DocumentWindows:
    """Documents from their start token to their end-of-text, in windows of at most a context.

    Args:
      texts: of the documents.
      vocabulary: the model's.
      context: tokens that the model reads at once.
      behind: tags; every window then stands behind the good one, of which no token is scored.
    """
    bos, eos = vocabulary.bos_id, vocabulary.eos_id
    encoded = [[bos, *ids, eos] for ids in vocabulary.encode_batch(texts)]
    tag = [] if behind is None else [bos, *behind.ids(vocabulary)[0]]
    windows_D = [
        [_behind(tag, window) for window in split_windows(ids, context - len(tag))]
        for ids in encoded
    ]
    return DocumentWindows(windows_D, [len(ids) - 1 for ids in encoded])


def _require_same(methods: Sequence[Loaded], steered_by: Sequence[Any]) -> None:
    """The methods must be those that the continuations of the same row were drawn with."""
    given = json.loads(json.dumps([method.settings for method in methods]))
    given = output_settings.as_named_before(list(steered_by), given)
    if output_settings.differ_in_marks(list(steered_by), given):
        raise UserError(
            "its continuations were generated by an earlier version, whose steering "
            f"{steered_by!r} banned less under this tokenizer; generate them again, or leave its "
            "`evaluate.Method.steering` out"
        )
    if not output_settings.agree(steered_by, given):
        raise UserError(
            f"its continuations were generated with steering {steered_by!r}, but its "
            f"`evaluate.Method.steering` is {given!r}; give the one that they were generated with"
        )


def _steered_nll(
    steered: scoring.SteeredTexts, windows_D: Sequence[Sequence[Window]], what: str
) -> np.ndarray:
    """The negative log-likelihood of each document, in nats; infinite where it is banned."""
    pairs = [(w[: first + 1], w[first + 1 :]) for windows in windows_D for w, first in windows]
    nll = iter(-said.log_probs_T.sum(dtype=np.float64) for said in steered(pairs, "perplexity"))
    nll_D = np.array([math.fsum(next(nll) for _ in windows) for windows in windows_D])
    if not (np.isfinite(nll_D) | (nll_D == np.inf)).all():
        raise UserError(f"{what}: the loss is not a number; a broken checkpoint")
    return nll_D


def continuation_perplexity(
    checkpoint_path: str,
    generations: str,
    num_samples: int = 2,
    batch_size: int = 128,
    mesh_shape: Mapping[str, int] | None = None,
    segmenter: Segmenter | None = None,
    asked: bool = False,
) -> ContinuationPerplexity:
    """The perplexity of continuations given their prompts under a reference model.

    A continuation is tokenised apart from its prompt where its tokens then spell it
    (`Vocabulary.encode_continuations`), and its end is not scored, since the limit of new tokens
    ends most. Empty continuations have no tokens.

    Args:
      checkpoint_path: the reference.
      generations: prompts with their continuations: file, glob or directory.
      num_samples: how many continuations of each prompt are read, the first ones.
      batch_size: continuations at once.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      segmenter: of words; white space alone where None.
      asked: whether the continuations are answers to prompts that were asked in a chat template:
        they are then read behind the question, in the reference's own template.

    Returns:
      Per token and per white-space word, with their counts and the reference's fingerprint.

    Raises:
      UserError: if every continuation is empty, or an answer's reference has no template.
    """
    mesh = meshes.create_mesh(mesh_shape)
    loaded = checkpoints.load_model(checkpoint_path, mesh, exact=True)
    vocabulary, context = loaded.vocabulary, loaded.module.config.max_length
    pairs = [
        (prompt.text, generation.text)
        for prompt in records.read_prompts(generations)
        for generation in prompt.generations[:num_samples]
        if generation.text.strip()
    ]
    if not pairs:
        raise UserError(
            f"{generations}: the first {num_samples} continuations of each prompt are empty; there "
            "is nothing to read"
        )
    windows, tokens = [], 0
    for (start, *before), text in _encoded(vocabulary, pairs, asked):
        # A context that is cut keeps its start token, which begins every text of the model's.
        ids = [start, *[*before, *text][-context:]]
        scored = min(len(text), len(ids) - 1)
        windows.append((ids, len(ids) - 1 - scored))
        tokens += scored
    total = _total_nll(loaded, mesh, windows, batch_size, generations, checkpoint_path)
    words = sum(segmenters.num_words(text, segmenter) for _, text in pairs)
    return ContinuationPerplexity(*_per_unit(total, tokens, words), reference=loaded.fingerprint)


def _encoded(
    vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], asked: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """The ids of what stands before each continuation, from its start token on, and its own."""
    prompts, texts = [prompt for prompt, _ in pairs], [text for _, text in pairs]
    exchange = chat.exchange(vocabulary, True) if asked else None
    starts = [vocabulary.bos_id]
    if exchange is not None:  # The template writes the start token.
        prompts, starts = [exchange.question(prompt) for prompt in prompts], []
    encoded = vocabulary.encode_batch(prompts), vocabulary.encode_continuations(prompts, texts)
    for prompt, text in zip(*encoded, strict=True):
        yield [*starts, *prompt] or [vocabulary.bos_id], text


def _per_unit(total: float, tokens: int, words: int) -> tuple[float, float, int, int]:
    """The first fields of both kinds of perplexity."""
    return exp(total / tokens), exp(total / words), tokens, words


def exp(nats: float) -> float:
    """The exponential; infinity where it is more than a number holds.

    Text without spaces is one word, of thousands of nats.
    """
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def _total_nll(
    loaded: checkpoints.LoadedModel,
    mesh: Mesh,
    windows: Sequence[Window],
    rows: int,
    texts: str,
    checkpoint_path: str,
) -> float:
    """The summed negative log-likelihood, in nats, of what the windows score."""
    # The ends of the paths tell the phases of a run apart.
    of_texts, model = (
        "/".join(path.rstrip("/").split("/")[-2:]) for path in (texts, checkpoint_path)
    )
    described = f"perplexity of {of_texts}, model {model}"
    with terminal.bar(described, len(windows), unit="windows") as advance:
        total = total_nll(loaded.module, loaded.params, mesh, windows, rows, advance)
    if not math.isfinite(total):
        raise UserError(f"{checkpoint_path} on {texts}: the loss is {total}; a broken checkpoint")
    return total


def total_nll(
    module: Any,
    params: Any,
    mesh: Mesh,
    windows: Sequence[Window],
    rows: int,
    advance: Callable[[int], None] | None = None,
) -> float:
    """The summed negative log-likelihood, in nats, of what windows score.

    Args:
      module: the network.
      params: its parameters, on the mesh.
      mesh: over whose `data` and `fsdp` axes the windows are split.
      windows: see `split_windows`.
      rows: windows at once, about.
      advance: is told how many windows are read.
    """
    shards = meshes.num_batch_shards(mesh)
    total = 0.0
    with meshes.sharding_scope(mesh):
        for batch, arrays in _batches(windows, -(-rows // shards) * shards):
            arrays = meshes.to_mesh(arrays, meshes.batch_sharding(mesh))
            total += float(_batch_nll(module, params, *arrays))
            if advance is not None:
                advance(batch)
    return total


# Of the module, not of a call: a second model of the same configuration finds it compiled.
@functools.partial(jax.jit, static_argnums=0)
def _batch_nll(
    module: Any, params: Any, inputs_BL: Any, targets_BL: Any, weights_BL: Any
) -> jax.Array:
    arrays = (inputs_BL, targets_BL, weights_BL)
    return losses.next_token_loss(
        module, params, *arrays, chunk=_LOGITS_CHUNK, enable_dropout=False
    )[0]


def _behind(tag: Sequence[int], window: Window) -> Window:
    """A window behind the start token and a tag, as the pieces of documents are in training."""
    ids, first = window
    if not tag:
        return window
    text = ids[1:] if ids[0] == tag[0] else ids  # Without its own start token.
    return [*tag, *text], first + len(tag) - (len(ids) - len(text))


def split_windows(ids: Sequence[int], context: int) -> list[Window]:
    """Windows of at most `context` inputs that score every token of `ids` but the first once.

    Returns:
      `(window, first)` pairs: predictions from position `first` of the window on are scored.
    """
    windows: list[Window] = []
    scored = 1  # ids[0] starts the document and is given, not predicted.
    while scored < len(ids):
        start = 0 if scored == 1 else max(0, scored - 1 - context // 2)
        end = min(len(ids), start + context + 1)
        windows.append((ids[start:end], scored - 1 - start))
        scored = end
    return windows


def _batches(
    windows: Sequence[Window], rows: int
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Windows of similar length together, padded to a power of two: few shapes to compile."""
    ordered = sorted(windows, key=lambda window: len(window[0]))
    lengths = [len(window) - 1 for window, _ in ordered]
    for first in range(0, len(ordered), rows):
        batch = ordered[first : first + rows]
        longest = lengths[first + len(batch) - 1]
        length = min(lengths[-1], max(16, 1 << (longest - 1).bit_length()))
        inputs, targets, weights = np.zeros((3, rows, length), np.int32)
        for row, (window, start) in enumerate(batch):
            n = len(window) - 1
            inputs[row, :n], targets[row, :n] = window[:-1], window[1:]
            weights[row, start:n] = 1
        yield len(batch), (inputs, targets, weights)
