"""The Python files that a tokenizer with code of its own consists of, as its tokenizer_config.json names them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from merging.errors import MergingError

_CONFIG = "tokenizer_config.json"
# In front of a module that lies in another repository, where transformers finds it.
_ELSEWHERE = "--"


def code_beside(tokenizer: Path, model: Path) -> Sequence[Path]:
    """Return the Python files of a tokenizer that an export needs besides those of the model of its config.

    Args:
        tokenizer: the folder of the tokenizer's files.
        model: the folder of the model whose config and Python files the export has.

    Raises:
        MergingError: both have a file of one name, with different contents.
    """
    found = []
    for file in () if tokenizer == model else _files(tokenizer):
        theirs = model / file.name
        if not theirs.exists():
            found.append(file)
        elif theirs.read_bytes() != file.read_bytes():
            raise MergingError(
                f"{file}: the tokenizer needs it, but {theirs}, which the model needs, is another file of that name; "
                f"rename one of them, and its module in auto_map of {_CONFIG} or config.json"
            )
    return found


def _files(folder: Path) -> Sequence[Path]:
    """Return the files of the modules that a tokenizer's config names, and of those that they import beside them."""
    from transformers.dynamic_module_utils import get_relative_import_files

    modules = [folder / f"{module}.py" for module in dict.fromkeys(_modules(folder))]
    imported = (Path(file) for module in modules for file in get_relative_import_files(str(module)))
    return list(dict.fromkeys([*modules, *imported]))


def _modules(folder: Path) -> Iterator[str]:
    file = folder / _CONFIG
    named = json.loads(file.read_text(encoding="utf-8")).get("auto_map") if file.exists() else None
    classes = named.get("AutoTokenizer") if isinstance(named, dict) else named
    for each in [classes] if isinstance(classes, str) else classes or ():
        if each and _ELSEWHERE not in each:
            yield each.rpartition(".")[0]
