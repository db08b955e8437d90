"""What surrounds code in a chat answer, taken off: reasoning, fences, and white space that is none to Python.

Guarantees: what string literals and comments hold is left as it was.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

_THOUGHT = "(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)"
_BEGIN = rf"(?:<{_THOUGHT}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>)"
_END = rf"(?:</{_THOUGHT}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>)"
_REASONING = re.compile(f"{_BEGIN}.*?{_END}", re.DOTALL | re.IGNORECASE)
# A template may have begun the reasoning; an answer may have been cut off in it.
_BEFORE_END = re.compile(f".*{_END}", re.DOTALL | re.IGNORECASE)
_AFTER_BEGIN = re.compile(f"{_BEGIN}.*", re.DOTALL | re.IGNORECASE)

_LONG_STRING = "|".join(rf"{quote}(?:\\.|[^\\])*?{quote}" for quote in ("'''", '"""'))
_SHORT_STRING = r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\""""
_KEPT = f"{_LONG_STRING}|{_SHORT_STRING}|#[^\n]*"
_BLANK = "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
_NOTHING = "[\u00ad\u200b-\u200f\u2060\ufeff]"
_LINE_END = "[\x85\u2028\u2029]"
_ODD = re.compile(f"(?P<kept>{_KEPT})|(?P<blank>{_BLANK})|(?P<end>{_LINE_END})|{_NOTHING}", re.DOTALL)

_FENCE = re.compile(r"[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*(`{3,}|~{3,})")
# A fence on a line with code: before it, or behind.
_CODE = r"(?:def|import|from|class|async|return|@)\b"
_BEFORE_CODE = re.compile(rf"^([ \t]*`{{3,}})(?:python3?|py)?[ \t]*(?={_CODE})", re.MULTILINE)
_BEHIND_CODE = re.compile(r"^([^\n`]*[^\s`][^\n`]*?)(`{3,})[ \t]*$", re.MULTILINE)


def readings(answer: str) -> Iterator[str]:
    """Yield what an answer may be read as, the likeliest first: without its reasoning, and with all that it holds.

    Each is yielded as it stands, and with its fences on lines of their own and the code in them at the margin.
    """
    text = _with_plain_space(answer.replace("\r\n", "\n").replace("\r", "\n"))
    for reading in dict.fromkeys([_without_reasoning(text), text]):
        yield reading
        yield "\n```\n".join(sections(reading))


def sections(text: str) -> Sequence[str]:
    """Return what stands outside and, at every second place, inside the fences of a text, the latter at the margin."""
    lines = _BEHIND_CODE.sub(r"\1\n\2", _BEFORE_CODE.sub(r"\1\n", text)).split("\n")
    found: list[list[str]] = [[]]
    mark = ""
    for line in lines:
        fence = _FENCE.match(line)
        if fence and (not mark or fence[1].startswith(mark)):
            mark = "" if mark else fence[1][:3]
            found.append([])
        else:
            found[-1].append(line)
    return [textwrap.dedent("\n".join(part)) if index % 2 else "\n".join(part) for index, part in enumerate(found)]


def is_fence(line: str) -> bool:
    """Whether a line begins or ends a fence."""
    return _FENCE.match(line) is not None


def _without_reasoning(text: str) -> str:
    return _AFTER_BEGIN.sub("", _BEFORE_END.sub("", _REASONING.sub("", text)))


def _with_plain_space(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        return found["kept"] or (" " if found["blank"] else "\n" if found["end"] else "")

    return _ODD.sub(plain, text)
