"""Chat templates: the well-known ones by name, and the one that a recipe's `chat_template` means.

Guarantees: the names are those of mergekit 0.1.5; the texts are written here after each format's public description.
Where mergekit's own file of that name prints a stray newline (llama3 and exaone after each message, alpaca between its
blocks), the format's own text is given instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from merging.errors import MergingError, shown, suggest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Jinja as transformers renders it: the first newline after a block tag, and blanks before one, are not printed.

_ALPACA = """\
{%- set ns = namespace(before='') -%}
{%- for message in messages -%}
{{- ns.before -}}
{%- set ns.before = '\\n\\n' -%}
{%- if message.role == 'user' -%}
{{- '### Instruction:\\n' + message.content | trim -}}
{%- elif message.role == 'user_context' -%}
{{- '### Input:\\n' + message.content | trim -}}
{%- elif message.role == 'assistant' -%}
{{- '### Response:\\n' + message.content | trim -}}
{%- else -%}
{{- message.content | trim -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role != 'assistant' -%}
{{- ns.before + '### Response:\\n' -}}
{%- endif -%}
"""

_CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_EXAONE = """\
{%- if messages and messages[0].role != 'system' -%}
{{- '[|system|][|endofturn|]\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '[|' + message.role + '|]' + message.content + ('\\n' if message.role == 'user' else '[|endofturn|]\\n') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '[|assistant|]' -}}
{%- endif -%}
"""

_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

_MISTRAL = """\
{%- set ns = namespace(system='', turn=0) -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' and loop.first -%}
{%- set ns.system = message.content + '\\n\\n' -%}
{%- elif message.role == ('user' if ns.turn % 2 == 0 else 'assistant') -%}
{%- if message.role == 'user' -%}
{{- ' [INST] ' + (ns.system if ns.turn == 0 else '') + message.content + ' [/INST]' -}}
{%- else -%}
{{- ' ' + message.content + eos_token -}}
{%- endif -%}
{%- set ns.turn = ns.turn + 1 -%}
{%- else -%}
{{- raise_exception('After a system message, which may be left out, user and assistant take turns') -}}
{%- endif -%}
{%- endfor -%}
"""

TEMPLATES = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}

# mergekit does not take shorter texts for templates.
_LEAST_LENGTH = 20

# A conversation whose parts can be found in a template's output.
_TURNS = ("question-7f3a", "answer-7f3a", "next-7f3a")


def choose_template(wanted: str | None, parents: Iterable[str | None]) -> str | None:
    """Return the template that a recipe's `chat_template` means, or None for that of the tokenizer.

    Args:
        wanted: a name, a template, or ``auto`` for the one that most parents have.
        parents: the parents' own templates, in the recipe's order.

    Raises:
        MergingError: `wanted` is none of these.
    """
    if not wanted:
        return None
    if wanted == "auto":
        found = [template.strip() for template in parents if template]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if "{" not in wanted or len(wanted) < _LEAST_LENGTH:
        raise MergingError(
            f"chat_template: {shown(wanted)} is not a Jinja template of at least {_LEAST_LENGTH} characters"
            f"{suggest(wanted, TEMPLATES)}; give the template itself, 'auto', or one of {', '.join(TEMPLATES)}"
        )
    return wanted


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token with which a tokenizer's chat template closes an answer, or None.

    If the next turn follows directly after an answer, this is the token that begins it.
    """
    if not tokenizer.chat_template:
        return None
    after = _after_answer(tokenizer, _TURNS[:2]) or _after_answer(tokenizer, _TURNS)
    first = next(iter(tokenizer.encode(after, add_special_tokens=False)), None)
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if first is None or first not in known or not after.startswith(str(tokenizer.convert_ids_to_tokens(first))):
        return None
    return int(first)


def _after_answer(tokenizer: PreTrainedTokenizerBase, turns: Sequence[str]) -> str:
    """Return what a template writes after an answer, up to the next question or the end; "" if it fails."""
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template is its author's program, and may refuse this conversation
        return ""
    return text.partition(_TURNS[1])[2].partition(_TURNS[2])[0].strip()
