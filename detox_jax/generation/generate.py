"""Verb `generate`: documents from scratch or from prompts, or k continuations of each prompt."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from detox_jax import chat, output_settings, outputs, preview, records, terminal
from detox_jax.checkpoints import identity, places
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import asking
from detox_jax.generation.asking import encode as _encode
from detox_jax.generation.asking import samples as _decode_shard
from detox_jax.generation.decoding import Decoder, Decoding, Sample, rows_per_batch
from detox_jax.generation.prompts import PromptMode, Request
from detox_jax.generation.sampling import DRAW_VERSION, Greedy
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.kinds import Count
from detox_jax.models.config import TransformerConfig
from detox_jax.output_settings import NOT_YET
from detox_jax.parallel import mesh as meshes
from detox_jax.preview import Step
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary

SHARD_NAME = "generations"
# What changes where, how fast or how often, and never what is written.
FREE = ("output_dir", "model", "mesh_shape", "strict", "limit_setting", "check_only", "loaded")


def generate(
    checkpoint_path: str,
    output_dir: str,
    prompts: PromptMode,
    decoding: Decoding | None = None,
    shard_size: Count = 1000,
    start_with_end_of_text: bool = True,
    model: TransformerConfig | None = None,
    mesh_shape: Mapping[str, int] | None = None,
    strict: bool = False,
    limit_setting: str | None = None,
    chat_template: chat.Choice = chat.AUTO,
    check_only: bool = False,
    loaded: checkpoints.LoadedModel | None = None,
) -> list[Step] | None:
    """Generates text from a checkpoint into sharded JSON Lines.

    Args:
      checkpoint_path: the model.
      output_dir: where the shards go; a rerun continues with the first shard that is missing.
      prompts: what to continue, see `detox_jax.generation.prompts`.
      decoding: how; as the evaluation protocol has it where None.
      shard_size: requests a shard, the unit of resumption.
      start_with_end_of_text: put the token that starts every training document (`<|endoftext|>`,
        or the vocabulary's own, `<s>`) before every prompt. Unconditional documents always start
        with it.
      model: must agree with the checkpoint where given; None takes the checkpoint's.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      strict: refuse a damaged newest step, in place of taking the one before and saying so.
      limit_setting: the macro that the user knows `max_new_tokens` by, where a limit beyond the
        context is lowered to what the context leaves, and a line says so; it is refused where None.
      chat_template: whether the model is asked in its tokenizer's chat template: a prompt is what a
        user says, nothing where there is none, and what is written is the answer, up to the end of
        the turn. The first halves of `Augmented` are the beginnings of answers.
      check_only: check what can be checked without work, and return the steps (`preview`).
      loaded: the checkpoint on this mesh and in this dtype, where Python holds it already.

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for a checkpoint or prompts that cannot be used, or a prompt beyond the context.
    """
    arguments = locals()
    decoding = decoding or Decoding()
    if shard_size < 1:
        raise UserError(f"shard_size is {shard_size}; must be at least 1")
    if prompts.makes_documents and decoding.num_samples > 1:
        raise UserError(
            f"NUM_SAMPLES is {decoding.num_samples}, but a document has one continuation; pass "
            "--gin.NUM_SAMPLES=1, and the number of documents as NUM_DOCUMENTS"
        )
    mesh = meshes.create_mesh(mesh_shape)
    if check_only:
        return [_preview(arguments, decoding, mesh)]
    _check_tags(checkpoint_path, decoding.behind)
    if loaded is None:
        known = functools.partial(_settings_ahead, arguments, decoding)
        if outputs.is_finished(output_dir, "generate", known):
            return None
        loaded = checkpoints.load_model(checkpoint_path, mesh, decoding.dtype, strict)
    if model is not None:
        checkpoints.check_architecture(model, loaded.spec.config, checkpoint_path)
    exchange = chat.exchange(loaded.vocabulary, chat_template)
    end_ids = exchange.end_ids if exchange else loaded.vocabulary.end_ids
    steering = steering_lib.load(decoding.steering, loaded, mesh, end_ids)
    listed = prompts.requests()
    longest = steering_lib.longest(steering, loaded.module.config.max_length)
    encoded = _encode(
        listed, loaded.vocabulary, start_with_end_of_text, prompts, exchange, decoding.behind
    )
    if limit_setting is not None:
        decoding = _shortened(decoding, longest, encoded, prompts, limit_setting, output_dir)

    # --- what is asked for -------------------------------------------------------------------
    config = loaded.module.config
    rules = asking.text_rules(config, loaded.vocabulary, decoding.behind)
    settings = _settings(
        arguments,
        decoding,
        prompts.describe(),
        loaded.fingerprint,
        config.dtype,
        {**steering_lib.settings(steering), **chat.settings(exchange), **rules},
    )
    if len(end_ids) > 1:  # One alone is the vocabulary's own.
        settings["end_ids"] = list(end_ids)
    limit = _room(longest, decoding.max_new_tokens)
    requests, encoded = _within(limit, longest, listed, encoded, prompts.skips_long_prompts)
    output = outputs.OutputDirectory(output_dir, "generate", settings)
    if output.complete:
        return None
    if (about := chat.said(loaded.vocabulary, exchange is not None)) is not None:
        terminal.note(about, output_dir)

    # --- shard by shard ----------------------------------------------------------------------
    decoder = Decoder(
        loaded.module,
        loaded.params,
        mesh,
        sampling=decoding.sampling,
        max_new_tokens=decoding.max_new_tokens,
        end_ids=end_ids,
        seed=decoding.random_seed,
        steerings=_in_loop(steering, decoding.behind, loaded, mesh),
    )
    num_samples, shards = decoding.num_samples, meshes.num_batch_shards(mesh)
    rows = rows_per_batch(decoding.batch_size, num_samples, shards)
    starts = range(0, len(requests), shard_size)
    with terminal.bar("generate", len(requests), unit="prompts") as advance:
        for index, start in enumerate(starts):
            shard = slice(start, min(start + shard_size, len(requests)))
            if output.has_shard(SHARD_NAME, index, len(starts)):
                advance(shard.stop - shard.start, earlier=True)
                continue
            samples = _decode_shard(
                decoder, requests[shard], encoded[shard], num_samples, rows, limit, advance
            )
            written = _records(prompts, requests[shard], encoded[shard], samples, loaded.vocabulary)
            output.write_shard(SHARD_NAME, index, len(starts), written)

    too_long = len(listed) - len(requests)
    output.finish(
        requests=len(requests), samples=len(requests) * num_samples, left_out_too_long=too_long
    )
    left_out = f", {too_long} left out, too long for the context" if too_long else ""
    print(f"{output_dir}: {len(requests)} requests x {num_samples} samples{left_out}")
    return None


def _settings(
    arguments: Mapping[str, Any],
    decoding: Decoding,
    prompts: Any,
    fingerprint: Any,
    dtype: Any,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """What decides the text.

    Args:
      arguments: of `generate`.
      decoding: with the limit of tokens that is kept.
      prompts: described.
      fingerprint: of the model.
      dtype: of its activations.
      others: `steering`, `chat_template` and `text_rules`, as far as there are any.
    """
    settings = output_settings.of_verb(
        generate,
        arguments,
        free=FREE,
        instead={
            "checkpoint_path": {
                "checkpoint": identity.described(arguments["checkpoint_path"], fingerprint)
            },
            "prompts": {"prompts": prompts},
            "chat_template": others,
            "decoding": output_settings.of_struct(
                decoding,
                free=("batch_size",),
                instead={
                    "dtype": {"dtype": dtype},
                    "steering": {},  # in `others`
                    "behind": _behind_settings(decoding.behind),
                },
            ),
        },
    )
    if not isinstance(decoding.sampling, Greedy):
        settings[output_settings.DRAW] = DRAW_VERSION
    return settings


def _settings_ahead(arguments: Mapping[str, Any], decoding: Decoding) -> dict[str, Any]:
    """The same before anything is loaded, as far as it is known."""
    path, choice, prompts = (arguments[n] for n in ("checkpoint_path", "chat_template", "prompts"))
    fingerprint, dtype = identity.ahead(path, decoding.dtype)
    others = steering_lib.settings_ahead(decoding.steering)
    is_coming = isinstance(path, preview.Coming)
    end_ids: Any = NOT_YET
    if not is_coming:
        model_dir = places.split(path)[0]
        vocabulary = Vocabulary.load(str(model_dir / places.VOCABULARY_DIR))
        exchange = chat.exchange(vocabulary, choice)
        config = checkpoints.read_spec(model_dir).config
        others |= chat.settings(exchange)
        others |= asking.text_rules(config, vocabulary, decoding.behind)
        end_ids = list(exchange.end_ids if exchange else vocabulary.end_ids)
    else:
        others[output_settings.TEXT_RULES] = NOT_YET
        if choice is not False:
            others["chat_template"] = NOT_YET
    waits = _waits(prompts)
    can_say = not waits or output_settings.is_ours(prompts)
    described = prompts.describe() if can_say else NOT_YET
    # What steers may read less than the model.
    is_known = arguments["limit_setting"] is None
    if not (is_known or is_coming or waits or decoding.steering):
        config, _, encoded = _asked(arguments, decoding)
        decoding = _shortened(decoding, config.max_length, encoded, prompts, "", None)
        is_known = True
    settings = _settings(arguments, decoding, described, fingerprint, dtype, others)
    if not is_known:
        settings["max_new_tokens"] = NOT_YET
    if end_ids is NOT_YET or len(end_ids) > 1:  # One alone is the vocabulary's own.
        settings["end_ids"] = end_ids
    return settings


def _waits(prompts: PromptMode) -> bool:
    """Whether an earlier step is to write what the prompts are read from."""
    return any(isinstance(value, preview.Coming) for value in vars(prompts).values())


def _asked(
    arguments: Mapping[str, Any], decoding: Decoding
) -> tuple[TransformerConfig, list[Request], list[list[int]]]:
    """The model's sizes, and the requests with their ids, without the weights."""
    path, prompts = arguments["checkpoint_path"], arguments["prompts"]
    config = checkpoints.read_spec(checkpoints.resolve(path)[0]).config
    vocabulary = Vocabulary.load(checkpoints.vocabulary_dir(path))
    listed = prompts.requests()
    exchange = chat.exchange(vocabulary, arguments["chat_template"])
    start = arguments["start_with_end_of_text"]
    encoded = _encode(listed, vocabulary, start, prompts, exchange, decoding.behind)
    return config, listed, encoded


def _preview(arguments: Mapping[str, Any], decoding: Decoding, mesh: Mesh) -> Step:
    """What there is to generate; prompts are compared with the context, without the weights."""
    checkpoint_path, output_dir = arguments["checkpoint_path"], arguments["output_dir"]
    prompts, limit_setting = arguments["prompts"], arguments["limit_setting"]
    preview.checked_output(output_dir)
    steering_lib.check(decoding.steering)
    if outputs.check(output_dir, "generate", lambda: _settings_ahead(arguments, decoding)):
        return Step("generate", output_dir)
    steering_lib.check_files(decoding.steering)
    steering_lib.check_mesh(decoding.steering, checkpoint_path, mesh)
    if isinstance(checkpoint_path, preview.Coming):
        return Step("generate", output_dir)
    _check_tags(checkpoint_path, decoding.behind)
    steering_lib.check_fit(decoding.steering, checkpoint_path)
    if (model := arguments["model"]) is not None:
        config = checkpoints.read_spec(checkpoints.resolve(checkpoint_path)[0]).config
        checkpoints.check_architecture(model, config, checkpoint_path)
    if _waits(prompts):
        Vocabulary.load(checkpoints.vocabulary_dir(checkpoint_path))  # It can be read.
        return Step("generate", output_dir)
    config, listed, encoded = _asked(arguments, decoding)
    longest = config.max_length
    if limit_setting is not None:
        decoding = _shortened(decoding, longest, encoded, prompts, limit_setting, None)
    limit = _room(longest, decoding.max_new_tokens)
    requests, _ = _within(limit, longest, listed, encoded, prompts.skips_long_prompts)
    samples = len(requests) * decoding.num_samples
    counts = {
        "requests": len(requests),
        "samples": samples,
        "new tokens at most": samples * decoding.max_new_tokens,
    }
    size = preview.text_size(samples, decoding.max_new_tokens)
    return Step("generate", output_dir, counts, size)


def _shortened(
    decoding: Decoding,
    longest: int,
    encoded: Sequence[list[int]],
    prompts: PromptMode,
    setting: str,
    output_dir: str | None,
) -> Decoding:
    """The decoding, with fewer new tokens where so many would leave no room for the prompts."""
    lengths = [len(ids) for ids in encoded]
    room = longest - decoding.max_new_tokens
    needed = min(lengths) if prompts.skips_long_prompts else max(lengths)
    if needed <= room:
        return decoding
    # A prompt that fills the context is refused, whatever is behind it.
    limit = max(longest - needed, 1)
    if output_dir is not None and needed < longest:
        terminal.note(
            f"{setting} is {limit}, not {decoding.max_new_tokens}: the context of {longest} tokens "
            "leaves no more",
            output_dir,
        )
    return dataclasses.replace(decoding, max_new_tokens=limit)


def _in_loop(
    steering: Sequence[steering_lib.Loaded],
    behind: Tags | None,
    loaded: checkpoints.LoadedModel,
    mesh: Mesh,
) -> tuple[steering_lib.Steering, ...]:
    """What steers in the loop; behind tags these are banned, last."""
    return (*steering_lib.in_loop(steering), *asking.bans(behind, loaded.vocabulary, mesh))


def _check_tags(checkpoint_path: str, behind: Tags | None) -> None:
    """Refuses other tags than those that a model was trained behind, as far as its files say."""
    if behind is None:
        return
    trained = identity.trained_behind(checkpoint_path)
    if trained is None:
        return
    if (trained["good"], trained["bad"]) != (behind.good, behind.bad):
        raise UserError(
            f"{checkpoint_path}: was trained behind {trained['good']!r} and {trained['bad']!r}, "
            f"but BEHIND has {behind.good!r} and {behind.bad!r}; set GOOD_TAG and BAD_TAG"
        )
    if (between := trained.get("between", [])) != list(behind.between):
        raise UserError(
            f"{checkpoint_path}: was trained with {between} between its tags, but BEHIND has "
            f"{list(behind.between)}; set BETWEEN_TAGS"
        )


def _behind_settings(behind: Tags | None) -> dict[str, Any]:
    """The tags that decide what is written; nothing without, so that older outputs go on."""
    return {} if behind is None else {"behind": behind.named}


def _room(longest: int, max_new_tokens: int) -> int:
    """How many tokens of a context are left for prompts."""
    if max_new_tokens >= longest:
        raise UserError(
            f"MAX_NEW_TOKENS is {max_new_tokens}, but the context is {longest} tokens, "
            "the prompt's included; lower it"
        )
    return longest - max_new_tokens


def _within(
    limit: int,
    longest: int,
    requests: Sequence[Request],
    encoded: Sequence[list[int]],
    skip: bool,
) -> tuple[list[Request], list[list[int]]]:
    """The requests of at most `limit` tokens; a longer one is an error unless it may be skipped."""
    pairs = list(zip(requests, encoded, strict=True))
    fitting = [(request, ids) for request, ids in pairs if len(ids) <= limit]
    if len(fitting) < len(pairs) and not (skip and fitting):
        request, ids = next(pair for pair in pairs if len(pair[1]) > limit)
        if len(ids) >= longest:
            raise UserError(
                f"{request.named} has {len(ids)} tokens, which leave nothing of the context of "
                f"{longest}; shorten it"
            )
        raise UserError(
            f"{request.named} has {len(ids)} tokens, but the context leaves room for "
            f"{limit} beside the new tokens; shorten it or lower MAX_NEW_TOKENS"
        )
    return [request for request, _ in fitting], [ids for _, ids in fitting]


def _records(
    mode: PromptMode,
    requests: Sequence[Request],
    encoded: Sequence[list[int]],
    samples: Sequence[Sequence[Sample]],
    vocabulary: Vocabulary,
) -> Iterator[records.Record]:
    """What is written of each request."""
    for request, prompt, group in zip(requests, encoded, samples, strict=True):
        before = prompt if mode.keeps_prompts else []
        yield mode.record(
            request,
            [
                _generation(sample, vocabulary.decode_continuation(before, sample.tokens))
                for sample in group
            ],
        )


def _generation(sample: Sample, text: str) -> records.Generation:
    extra = {"num_tokens": len(sample.tokens), "finish": "stop" if sample.stopped else "length"}
    return records.Generation(text, extra=extra)
