"""Chat templates: how they render a question, and what they write around an answer.

Guarantees: a prompt contains the question verbatim and ends where the answer begins, as in the template's own
conversations. A template's mistake is corrected only where the correction is unambiguous.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Placeholders for a question, an answer and the next question: they show what a template writes around each.
_QUESTION, _ANSWER, _NEXT = "question-7f3a", "answer-7f3a", "next-7f3a"
# Llama 3's templates write today's date unless given one, and a search may run past midnight. This is their default.
_DATE = "26 Jul 2024"
# A mark such as <|im_end|> or [|endofturn|]; anything else may occur in code.
_MARK = re.compile(r"<[^<>\s]{2,}>|\[\|[^\[\]\s]+\|\]")


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The mark that ends an answer.

    Attributes:
        text: the mark as the template writes it.
        token: its id; None if the vocabulary lacks the token, so that a model generates it as text.
    """

    text: str
    token: int | None


def ask(question: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a question as the tokenizer's chat template renders it, up to where the answer begins.

    Raises ModelError if the template fails or drops the question.
    """
    text = _opened(question, tokenizer)
    if question in text:
        return text
    around = _opened(_QUESTION, tokenizer)
    if _QUESTION not in around:
        raise ModelError(
            "prompt format 'chat': the chat template drops the user's message; use format 'completion', or name a "
            "tokenizer with another template (evaluation.prompt.tokenizer)"
        )
    return around.replace(_QUESTION, question, 1)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd | None:
    """Return the mark that ends an answer in the tokenizer's chat template; None without a template or a mark."""
    if not tokenizer.chat_template:
        return None
    after = _around_answer(_QUESTION, tokenizer)[1].strip()
    if after:
        return _special(after, tokenizer) or _mark(after)
    # Some templates end an answer only with the token that opens the next turn.
    return _special(_around_answer(_QUESTION, tokenizer, _NEXT)[1].strip(), tokenizer)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that mean something other than their text."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids).union(index for index, token in added if token.special)


def _opened(question: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a question and the beginning of the assistant's turn, even if the template does not open that turn."""
    text = as_rendered(tokenizer, question)
    before, after = _around_answer(question, tokenizer)
    if before.rstrip() in ("", text.rstrip()):
        return text
    if text.startswith(before.rstrip()) and after.strip().endswith(text[len(before.rstrip()) :].strip()):
        return before  # the template closes even the turn that it has just opened
    bare = text.rstrip().removesuffix(after.strip()).rstrip()
    if before.startswith(bare) and text == as_rendered(tokenizer, question, prompted=False):
        return before.rstrip(" ")  # a blank belongs to the answer's first token
    return text


def _around_answer(question: str, tokenizer: PreTrainedTokenizerBase, then: str = "") -> tuple[str, str]:
    """Return a template's text before an answer, and after it up to the next question; empty if it takes no answer."""
    try:
        text = as_rendered(tokenizer, question, _ANSWER, *([then] if then else []), prompted=False)
    except ModelError:
        return "", ""
    before, found, after = text.partition(_ANSWER)
    return (before, after.partition(then)[0] if then else after) if found else ("", "")


def as_rendered(tokenizer: PreTrainedTokenizerBase, *turns: str, prompted: bool = True) -> str:
    """Return a conversation exactly as the template renders it. Raises ModelError if the template fails.

    Args:
        tokenizer: the tokenizer with the template.
        turns: the messages, by the user and the assistant alternately.
        prompted: whether to ask the template to open the assistant's turn at the end.
    """
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompted, date_string=_DATE
        )
    except Exception as error:  # a template is a program, and may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"prompt format 'chat': the chat template fails: {reason}; use format 'completion', or name a tokenizer "
            "with another template (evaluation.prompt.tokenizer)"
        ) from None
    assert isinstance(text, str)
    return text


def _special(text: str, tokenizer: PreTrainedTokenizerBase) -> TurnEnd | None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if not tokens or tokens[0] not in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}:
        return None
    written = str(tokenizer.convert_ids_to_tokens(tokens[0]))
    return TurnEnd(written, tokens[0]) if text.startswith(written) else None


def _mark(text: str) -> TurnEnd | None:
    found = _MARK.match(text)
    return TurnEnd(found[0], None) if found else None
