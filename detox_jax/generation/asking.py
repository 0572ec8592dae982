"""How a model is asked: prompts as token ids, behind tags or in a chat template; its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from detox_jax import chat, output_settings
from detox_jax.errors import UserError
from detox_jax.generation.decoding import Decoder, Sample, bucket_length
from detox_jax.generation.prompts import PromptMode, Request
from detox_jax.generation.steering import words
from detox_jax.generation.steering.steering import Steering
from detox_jax.models.config import TransformerConfig
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary


def encode(
    requests: Sequence[Request],
    vocabulary: Vocabulary,
    start: bool,
    mode: PromptMode,
    exchange: chat.Exchange | None,
    behind: Tags | None = None,
) -> list[list[int]]:
    """Token ids of every request; behind a tag as documents are in training, with their start.

    Args:
      requests: what to continue.
      vocabulary: the model's.
      start: put the token that starts every document before every prompt, also where there is text.
      mode: which the requests are of.
      exchange: the chat template; None asks in raw text.
      behind: tags, of which the good one stands before every prompt.

    Raises:
      UserError: for a prompt that holds a tag, and for tags in a chat template.
    """
    if exchange is None:
        encoded = vocabulary.encode_batch([request.text for request in requests])
        if behind is not None:
            for request in requests:
                behind.check_text(request.text, request.named)
            good = behind.ids(vocabulary)[0]
            return [[vocabulary.bos_id, *good, *ids] for ids in encoded]
        return [[vocabulary.bos_id, *ids] if start or not ids else ids for ids in encoded]
    if behind is not None:
        raise UserError(
            "BEHIND sets tags before documents, and this model is asked in its chat template, "
            "which has no place for them; pass --gin.CHAT_TEMPLATE=False, or leave BEHIND out"
        )
    if mode.keeps_prompts and mode.makes_documents:  # A document is an answer; this one has begun.
        texts = [exchange.begun("", request.text) for request in requests]
    else:
        texts = [exchange.question(request.text) for request in requests]
    return [ids or [vocabulary.bos_id] for ids in vocabulary.encode_batch(texts)]


def bans(behind: Tags | None, vocabulary: Vocabulary, mesh: Mesh) -> tuple[Steering, ...]:
    """What keeps the tags from being written; nothing without."""
    if behind is None:
        return ()
    phrases = list(behind.ids(vocabulary))
    for tag, ways in zip(behind.all, words.ways_of(behind.all, vocabulary), strict=True):
        phrases += [ids for ids in ways if words.writes(vocabulary, ids, tag)]
    automaton = words.Automaton.of_phrases(dict.fromkeys(phrases), vocabulary.vocab_size)
    return (words.Bans.of(automaton, mesh),)


def text_rules(
    config: TransformerConfig, vocabulary: Vocabulary, behind: Tags | None
) -> dict[str, int]:
    """What settings say of text that is written: see `output_settings.TEXT_RULES`.

    A version before drew rows beyond the vocabulary too, and banned tags as they stand by
    themselves alone.

    Args:
      config: of the model.
      vocabulary: the model's.
      behind: tags before every prompt.
    """
    differ = behind is not None and words.differ_behind(behind.all, vocabulary)
    return output_settings.text_rules(differ or vocabulary.leaves_spare(config.vocab_size))


def samples(
    decoder: Decoder,
    requests: Sequence[Request],
    encoded: Sequence[list[int]],
    num_samples: int,
    rows: int,
    limit: int,
    advance: Callable[[], None] | None = None,
) -> list[list[Sample]]:
    """Samples of each request, in order; decoded bucket by bucket.

    Args:
      decoder: of the model.
      requests: what to continue; their ids seed the draws.
      encoded: token ids of each.
      num_samples: continuations of each.
      rows: requests whose samples are decoded at once.
      limit: tokens of the longest prompt that leaves room for the new ones.
      advance: is told of every request that is done.
    """
    buckets: dict[int, list[int]] = {}
    for i, ids in enumerate(encoded):
        buckets.setdefault(bucket_length(len(ids), limit), []).append(i)
    made: list[list[Sample]] = [[] for _ in requests]
    # One shard after the other, though its last rows wait for each other: a shard that is decoded
    # again after an interruption then runs as before, to the last bit.
    for bucket, members in sorted(buckets.items()):
        finished = decoder.finished(
            [encoded[i] for i in members],
            [requests[i].id for i in members],
            num_samples=num_samples,
            num_rows=rows,
            bucket=bucket,
        )
        for n, of_request in finished:
            made[members[n]] = of_request
            if advance is not None:
                advance()
    return made
