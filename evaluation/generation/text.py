"""From tokens to text: where a completion ends, and how it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.chat_template import turn_end
from evaluation.generation.backend_protocol import Request

# A stop text of n characters spans at most n tokens; decoding a few more costs nothing.
TAIL_TOKENS = 16
_CONTEXT_TOKENS = 4


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a completion: the configured ones, and the one that ends a chat turn."""
    end = turn_end(tokenizer)
    closing = {end.token} if end and end.token is not None else set()
    return configured_ends(model.generation_config, tokenizer) | closing


def configured_ends(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the end tokens of a generation config and of the tokenizer."""
    configured = config.eos_token_id if config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if isinstance(token, int))


def context_length(model: PreTrainedModel) -> int:
    """Return the most tokens of a prompt and its completion together."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)


def within_context(request: Request, model: PreTrainedModel) -> Request:
    """Return a request cut to the model's context: at least one new token, and no reference that does not fit."""
    room = max(1, context_length(model) - len(request.prompt))
    reference = request.reference if len(request.reference) < room else ()
    return replace(request, max_new_tokens=min(request.max_new_tokens, room), reference=reference)


def most_tokens(request: Request) -> int:
    """Return the most tokens that a request's prompt has together with its completion or its reference."""
    return len(request.prompt) + max(request.max_new_tokens, len(request.reference) + 1)


def ends_in_stop(stops: Sequence[str], tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the newest of these tokens completed one of the stop texts."""
    if not _may_complete(tuple(stops), tokens[-1], tokenizer):
        return False
    tail = decode(tokens[-TAIL_TOKENS:], tokenizer)
    return any(stop in tail for stop in stops)


@lru_cache(maxsize=1 << 16)
def _may_complete(stops: tuple[str, ...], token: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether one of the stop texts may end in this token. Most tokens end none, so that no tail need be decoded."""
    if not all(map(str.isascii, stops)):  # a token may hold half a character, which cannot be compared
        return True
    text = decode([token], tokenizer)
    # Some tokenizers strip a leading space.
    ends = (stop[at:].lstrip() for stop in stops for at in range(len(stop)))
    return any(map(text.lstrip().startswith, ends)) or any(stop in text for stop in stops)


def text_after(prompt: Sequence[int], written: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of the tokens after a prompt, without special tokens."""
    # Some tokenizers strip a leading space, so the end of the prompt is decoded as well.
    context = list(prompt[-_CONTEXT_TOKENS:])
    return decode([*context, *written], tokenizer)[len(decode(context, tokenizer)) :]


def decode(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that was encoded as these tokens."""
    # "Cleaning up" would remove spaces from code such as `x = not y .z`.
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # it would be a list for several sequences
    return text
