"""Chat templates: the well-known ones by name, and which one a recipe's `chat_template` means.

Guarantees: the names are those of mergekit 0.1.5; the texts are written here after each format's public description.
Where mergekit's own file of that name prints a stray newline (llama3 and exaone after each message, alpaca between its
blocks), the format's own text is given instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from merging.errors import MergingError, shown, suggest

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

# Shorter ones are none to mergekit.
_LEAST_LENGTH = 20


def choose_template(wanted: str | None, parents: Iterable[str | None]) -> str | None:
    """Return the template that a recipe's `chat_template` means, or None for that of the tokenizer.

    Args:
        wanted: a name, a template, or ``auto`` for the one that most parents have.
        parents: the parents' own templates, in the recipe's order.

    Raises:
        MergingError: it is none of these.
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
            f"chat_template: {shown(wanted)} is no Jinja template of at least {_LEAST_LENGTH} characters"
            f"{suggest(wanted, TEMPLATES)}; give the template itself, 'auto', or one of {', '.join(TEMPLATES)}"
        )
    return wanted
