"""The pages of docs/reference, made of the code: config keys, commands, methods.

    python -m docs.scripts.reference

writes them. Guarantees: nothing in them is written by hand, and every config key has a docstring below it.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import click
import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from merging import METHODS
from merging.methods.declarations import Parameter, Scope
from merging.methods.registry import Method
from search.cli import main
from search.space import sections
from search.study.samplers import AUTO, SAMPLERS

PAGES = Path(__file__).parents[1] / "reference"
_MADE = "<!-- Made by python -m docs.scripts.reference; do not edit. -->"
_NONE = "none"
_READ_BY = {
    sections.parse_duration: "a duration (`8h`, `1h30m`, `90m`, `45s`)",
    sections.parse_size: "a size (`20GB`, `512MB`)",
    sections._known_sampler: ", ".join(f"`{name}`" for name in [AUTO, *SAMPLERS]),
}
_PLAIN = {
    bool: "`true` or `false`",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict[str, object]: "a recipe",
    dict[str, int | str]: "a mapping of modules to devices",
    dict[str, bool | int | float | str]: "a mapping",
}


def reference() -> dict[str, str]:
    """Return the text of each page by its name."""
    pages = {"config.md": config_page(), "commands.md": commands_page(), "methods.md": methods_page()}
    return {name: f"{_MADE}\n\n{text.strip()}\n" for name, text in pages.items()}


def config_page() -> str:
    """Return the page of config keys."""
    lines = [
        "# Config keys",
        "",
        "A config is one YAML file. Unknown keys, wrong types and values out of range are errors that name the file,",
        "the key and the remedy. Paths are looked up beside the config first, then in the current folder.",
        "",
    ]
    for key, section in _sections(sections.Sections, ""):
        lines += [f"## {key or 'A config'}", "", inspect.cleandoc(section.__doc__ or ""), ""]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        lines += [_row(key, name, field, _docstrings(section)[name]) for name, field in section.model_fields.items()]
        lines += [""]
    return "\n".join(lines)


def _sections(section: type[BaseModel], key: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a section and those in it, each with its key."""
    yield key, section
    for name, field in section.model_fields.items():
        for each in _models_in(field.annotation):
            yield from _sections(each, f"{key}.{name}".strip("."))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _row(section: str, name: str, field: FieldInfo, text: str) -> str:
    full = f"{section}.{name}".strip(".")
    link = next((f" ([its keys](#{full.replace('.', '')}))" for _ in _models_in(field.annotation)), "")
    known = next((_READ_BY[it.func] for it in field.metadata if getattr(it, "func", None) in _READ_BY), None)
    value = (known or _value(field.annotation)) + _limits(field.metadata)
    return f"| `{name}` | {value} | {_default(field)} | {text}{link} |"


def _limits(metadata: list[Any]) -> str:
    found = {type(it): it for it in metadata}
    low = f"[{found[Ge].ge:g}" if Ge in found else f"({found[Gt].gt:g}" if Gt in found else ""
    high = f"{found[Le].le:g}]" if Le in found else f"{found[Lt].lt:g})" if Lt in found else ""
    if low and high:
        return f" in {low}, {high}"
    return f" {'≥' if Ge in found else '>'} {low[1:]}" if low else ""


def _value(annotation: Any) -> str:
    """Return what may stand for a type in YAML."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in parts)
    if origin is Annotated:
        read_by = (_READ_BY.get(getattr(each, "func", None)) for each in parts[1:])
        return next(filter(None, read_by), _value(parts[0]))
    if origin is tuple:
        return "a list" if any(_models_in(annotation)) else f"a list of {_value(parts[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a mapping"
    return " or ".join(dict.fromkeys(_value(part) for part in parts if part is not NoneType))


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(default, BaseModel):
        return "its keys' defaults"
    if default is None or default == () or default == {}:
        return _NONE
    if isinstance(default, tuple):
        return ", ".join(f"`{each.source}`" for each in default)
    return f"`{yaml.safe_dump(default).splitlines()[0]}`"


@cache
def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a class."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, definition.body[1:], strict=False)
    return {
        field.target.id: text.value.value
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def commands_page() -> str:
    """Return the page of commands, as their help says it."""
    lines = ["# Commands", "", "`merge-search COMMAND --help` prints the same.", ""]
    for name, command in sorted(main.commands.items()):
        with click.Context(command, info_name=f"merge-search {name}") as context:
            about, _, example = inspect.cleandoc(command.help or "").partition("\n\n\b\nExample:\n")
            rows = [param.get_help_record(context) for param in command.params]
            usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## {name}", "", " ".join(about.split()), "", "```text", f"merge-search {name} {usage}", "```", ""]
        lines += ["| option | |", "|---|---|"]
        lines += [f"| {_options(row[0])} | {_cell(row[1])} |" for row in rows if row and row[1]]
        if example:
            lines += ["", "```bash", inspect.cleandoc(f"\n{example}"), "```"]
        lines += [""]
    return "\n".join(lines)


def _options(text: str) -> str:
    """Return the names of an option without its values, which the next words say."""
    names, _, value = text.partition("  ")
    return f"`{_cell(names)}`{value}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def methods_page() -> str:
    """Return the page of merge methods."""
    lines = [
        "# Merge methods",
        "",
        "`merge_method` of a recipe is one of these. A parameter has one value for all models (*shared*), one per",
        "model, or one per model except the base.",
        "",
        "| method | paper | base model | models | in mergekit |",
        "|---|---|---|---|---|",
    ]
    methods = [METHODS[name] for name in sorted(METHODS)]
    for it in methods:
        known = "yes" if it.in_mergekit else "no"
        lines += [f"| [`{it.name}`](#{it.name}) | {_paper(it.source)} | {it.base} | {_count(it)} | {known} |"]
    for it in methods:
        lines += ["", f"## {it.name}", "", _about(it), ""]
        if it.random:
            lines += ["It draws random numbers: the seed (`merging.random_seed`) belongs to the merge.", ""]
        if not it.parameters:
            lines += ["It has no parameters."]
            continue
        lines += ["| parameter | of | value | default |", "|---|---|---|---|"]
        lines += [_parameter_row(each, it) for each in it.parameters]
    return "\n".join(lines)


def _about(method: Method) -> str:
    text = " ".join(takewhile(str.strip, inspect.cleandoc(method.combining.__doc__ or "").splitlines()))
    text = text.removeprefix("Return ")
    return text[0].upper() + text[1:]


def _paper(source: str) -> str:
    if source.startswith("arXiv:"):
        return f"[{source}](https://arxiv.org/abs/{source.removeprefix('arXiv:')})"
    if source.startswith("https://"):
        return f"[{re.sub(r'^https://(?:www[.])?', '', source).split('/')[0]}]({source})"
    return source


def _count(method: Method) -> str:
    least, most = method.inputs
    besides = (
        " besides the base" if method.base == "optional" else ", the base included" if method.sets_base_apart else ""
    )
    return (f"{least}" if least == most else f"at least {least}") + besides


def _parameter_row(parameter: Parameter, method: Method) -> str:
    each = "each model except the base" if method.sets_base_apart else "each model"
    scope = {Scope.SHARED: "shared", Scope.INPUT: "each model", Scope.NON_BASE: each}[parameter.scope]
    low, high = ("" if math.isinf(bound) else f"{bound:g}" for bound in (parameter.low, parameter.high))
    limits = f" in [{low}, {high}]" if low and high else f" ≥ {low}" if low else ""
    default = (
        "required" if parameter.required else _NONE if parameter.default is None else f"`{_yaml(parameter.default)}`"
    )
    return f"| `{parameter.key}` | {scope} | {_PLAIN[parameter.kind]}{limits} | {default} |"


def _yaml(value: object) -> str:
    return str(yaml.safe_dump(value)).splitlines()[0]


if __name__ == "__main__":
    for page, written in reference().items():
        (PAGES / page).write_text(written, encoding="utf-8")
