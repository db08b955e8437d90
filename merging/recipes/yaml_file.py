"""YAML as users write it: read strictly, with one-line errors that name the file, the key and the problem.

Guarantees: a key that is given twice is an error. Knows no schema; recipes and configs bring theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from merging.errors import shown, suggest

Schema = TypeVar("Schema", bound=BaseModel)
Keys: TypeAlias = tuple[str | int, ...]  # the place of a value in plain data


@dataclass(frozen=True, slots=True)
class YamlReader:
    """Reads one kind of file.

    Attributes:
        kind: the word for it in errors, such as ``recipe``.
        error: the type of error to raise; its message is for the author of the file.
    """

    kind: str
    error: type[Exception]

    def text(self, path: str | Path) -> str:
        """Return the text of a file. Raises `error` if it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise self.error(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise self.error(f"{path}: is not UTF-8 text; a {self.kind} is a YAML file") from None

    def parse(self, text: str, source: str) -> object:
        """Return the data in a text; errors call it `source`. Raises `error` with the line."""
        try:
            return _load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{source}:{mark.line + 1}" if mark else source
            reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
            if reason == "but found another document":
                raise self.error(f"{where}: a second document begins here; a {self.kind} is one") from None
            raise self.error(f"{where}: is not valid YAML: {reason}") from None
        # Errors that PyYAML lets through: a 13th month, thousands of brackets.
        except (ValueError, TypeError, RecursionError) as error:
            raise self.error(f"{source}: is not valid YAML: {error}") from None

    def validate(self, schema: type[Schema], data: object, source: str, key: str = "") -> Schema:
        """Return plain data as a schema's object; `key` is its place in `source`. Raises `error` with the key."""
        try:
            return schema.model_validate(data)
        except ValidationError as error:
            raise self.error(_explain(_first(error.errors(include_url=False)), schema, source, key)) from None


class Dumper(yaml.SafeDumper):
    """Writes YAML as users do: shared values in full, without anchors, and gradients on one line."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002, D102 - PyYAML asks whether to write no anchor
        return True


def _represent_list(dumper: Dumper, data: list[object]) -> yaml.Node:
    flow = all(isinstance(item, bool | int | float | str) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


Dumper.add_representer(list, _represent_list)


def join(path: str, rest: str) -> str:
    """Return the path of a key below another one."""
    if not path or not rest or rest.startswith("["):
        return path + rest
    return f"{path}.{rest}"


def path_of(keys: Iterable[str | int]) -> str:
    """Return the path of a key as errors and searched parameters show it: ``models[0].parameters.weight``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def place(source: str, key: str) -> str:
    """Return the beginning of an error: the file and the key."""
    return f"{source}: {key}" if key else source


# Deeper data would end in a RecursionError where it is copied or validated.
_DEPTH = 100
# libyaml's loader takes a tenth of the time.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _load(text: str) -> object:
    """Return the data in a text. Raises yaml.YAMLError, and errors that PyYAML lets through."""
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        _check(root, frozenset(), set())
        data: object = None if root is None else loader.construct_document(root)
        return data
    finally:
        loader.dispose()


def _check(node: yaml.Node | None, above: frozenset[int], checked: set[int]) -> None:
    """Raise yaml.YAMLError if a key is given twice, or a list or mapping contains itself.

    Keys from YAML merge keys (``<<``) may be overridden. `above` holds the ids of the nodes around this one.
    """
    if id(node) in above:
        raise yaml.YAMLError("an alias (*name) is inside the value that it names")
    if len(above) > _DEPTH:
        raise yaml.YAMLError(f"lists and mappings are nested more than {_DEPTH} deep")
    if not isinstance(node, yaml.CollectionNode) or id(node) in checked:
        return
    is_mapping = isinstance(node, yaml.MappingNode)
    keys = set()
    for entry in node.value:
        for part in entry if is_mapping else (entry,):
            _check(part, above | {id(node)}, checked)
        if is_mapping and isinstance(key := entry[0], yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
            keys.add((key.tag, key.value))
    checked.add(id(node))


# pydantic's "a valid tuple", "a valid dictionary" and "a valid string" are not terms of YAML.
_EXPECTED = {
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "string_type": "expected a word",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "literal_error": "expected {expected}",
    "greater_than": "expected a number above {gt}",
    "greater_than_equal": "expected a number of {ge} or more",
    "less_than": "expected a number below {lt}",
    "less_than_equal": "expected a number of {le} or less",
    "too_short": "expected {min_length} or more entries",
    "too_long": "expected {max_length} or fewer entries",
}
# Parts of pydantic's locations that are not keys: the member of a union that was tried.
_MEMBERS = ("str", "dict[str,any]", "model_token", "zero", "earlier")


def _first(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    # A misspelt key gives two errors in pydantic, and the one that says "missing" comes first.
    return min(errors, key=lambda error: error["type"] != "extra_forbidden")


def _explain(error: ErrorDetails, schema: type[BaseModel], source: str, key: str) -> str:
    context = error.get("ctx") or {}
    location = [part for part in error["loc"] if part not in _MEMBERS]
    where = place(source, join(key, path_of(location) + str(context.get("at", ""))))
    if error["type"] == "extra_forbidden":
        known = _known_keys(schema, error["loc"][:-1])
        return f"{where}: unknown key{suggest(str(location[-1]), known)} (known: {', '.join(known)})"
    if error["type"] == "missing":
        return f"{where}: is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" or "reason" in context:  # one of our validators, whose message is complete
        return f"{where}: {message}"
    expected = _EXPECTED.get(error["type"])
    message = expected.format(**context) if expected else message[:1].lower() + message[1:]
    return f"{where}: {message}, got {'nothing' if error['input'] is None else shown(error['input'])}"


def _known_keys(schema: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys of the schema's section at a location."""
    sections = [schema]
    for part in location:
        annotations = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        inner = [section for annotation in annotations for section in _sections(annotation)]
        sections = inner or [section for section in sections if part in _tags(section)] or sections
    return list(
        dict.fromkeys(field.alias or name for section in sections for name, field in section.model_fields.items())
    )


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _tags(section: type[BaseModel]) -> list[object]:
    """Return the words that distinguish a section from the other members of its union."""
    literals = [field.annotation for field in section.model_fields.values() if get_origin(field.annotation) is Literal]
    return [tag for literal in literals for tag in get_args(literal)]
