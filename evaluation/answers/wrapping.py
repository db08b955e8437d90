"""Removes what surrounds code in a chat answer: reasoning, fences, and white space that Python does not accept.

Guarantees: string literals and comments stay as they were.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

_THOUGHT = "(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)"
_THINKING = re.compile(
    rf"(?P<begin><{_THOUGHT}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>)"
    rf"|</{_THOUGHT}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>",
    re.IGNORECASE,
)

_LONG_STRING = "|".join(rf"{quote}(?:\\.|[^\\])*?{quote}" for quote in ("'''", '"""'))
_SHORT_STRING = r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\""""
_KEPT = f"{_LONG_STRING}|{_SHORT_STRING}|#[^\n]*"
_BLANK = "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
_NOTHING = "[\u00ad\u200b-\u200f\u2060\ufeff]"
_LINE_END = "[\x85\u2028\u2029]"
_ODD = re.compile(f"(?P<kept>{_KEPT})|(?P<blank>{_BLANK})|(?P<end>{_LINE_END})|{_NOTHING}", re.DOTALL)
# Marks that begin or end a turn, written as text, and tags: code has them only in strings.
_MARK = re.compile(rf"(?P<kept>{_KEPT})|<\|\w+\|>|</\w+>|^<\w+>|<(?:start|end)_of_turn>", re.DOTALL | re.MULTILINE)

_FENCE = re.compile(r"[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*(`{3,}|~{3,})")
# A fence that opens on the same line as its first code.
_BEFORE_CODE = re.compile(r"^([ \t]*`{3,})(?:python3?|py)?[ \t]*(?=(?:def|import|from|class|async|return|@)\b)", re.M)


def readings(answer: str) -> Sequence[Sequence[str]]:
    """Return the possible readings of an answer, the likeliest first: without its reasoning, and whole.

    Each reading comes twice: as it is, and with its fences on lines of their own and the fenced code dedented.
    """
    text = _with_plain_space(answer.replace("\r\n", "\n").replace("\r", "\n"))
    found = dict.fromkeys(_without_marks(reading) for reading in (_without_reasoning(text), text))
    return [list(dict.fromkeys((reading, "\n```\n".join(sections(reading))))) for reading in found]


def sections(text: str) -> Sequence[str]:
    """Return the parts of a text outside its fences (even indices) and inside them (odd indices, dedented)."""
    found: list[list[str]] = [[]]
    mark = ""
    for line in _BEFORE_CODE.sub(r"\1\n", text).split("\n"):
        fence = _FENCE.match(line)
        if fence and (not mark or fence[1].startswith(mark)):
            mark = "" if mark else fence[1][:3]
            found.append([])
        elif mark and line.rstrip().endswith(mark):  # the fence closes on the same line as its last code
            found[-1].append(line.rstrip().rstrip(mark))
            found.append([])
            mark = ""
        else:
            found[-1].append(line)
    return [textwrap.dedent("\n".join(part)) if index % 2 else "\n".join(part) for index, part in enumerate(found)]


def is_fence(line: str) -> bool:
    """Whether a line begins or ends a fence."""
    return _FENCE.match(line) is not None


def _without_reasoning(text: str) -> str:
    kept: list[str] = []
    at, is_thinking = 0, False
    for mark in _THINKING.finditer(text):
        if not is_thinking and not _is_at_an_edge(mark):  # code that merely mentions the mark
            continue
        if mark["begin"]:
            kept += [] if is_thinking else [text[at : mark.start()]]
        elif not is_thinking:  # the template opened the reasoning
            kept.clear()
        at, is_thinking = mark.end(), mark["begin"] is not None
    return "".join(kept if is_thinking else [*kept, text[at:]])


def _is_at_an_edge(mark: re.Match[str]) -> bool:
    """Whether a mark begins or ends its line."""
    text, start, end = mark.string, mark.start(), mark.end()
    line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    return not text[line_start:start].strip() or not text[end : None if line_end < 0 else line_end].strip()


def _without_marks(text: str) -> str:
    return _MARK.sub(lambda found: found["kept"] or "\n", text)


def _with_plain_space(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        return found["kept"] or (" " if found["blank"] else "\n" if found["end"] else "")

    return _ODD.sub(plain, text)
