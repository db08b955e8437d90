"""The models and files that a recipe names, by the keys that name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from merging.checkpoints.references import missing_part, split_reference
from merging.errors import MergingError
from merging.options import LOAD, LoadOptions

# Keys of a recipe whose value names a model or a file, and the words that have another meaning there.
REFERENCES: Mapping[str, tuple[str, ...]] = {
    "model": (),
    "path": (),
    "lora": (),
    "base_model": (),
    "tokenizer_source": ("base", "union"),
    "source": ("base", "union"),
    "calibration": (),
}
FILES: Set[str] = {"calibration"}
MODELS: Set[str] = REFERENCES.keys() - FILES


def references_in(node: object, kinds: Set[str] = MODELS, key: str = "", kind: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each key in a recipe's plain data that names a model or file of these kinds."""
    if isinstance(node, dict):
        for name, value in node.items():
            revision = node.get("revision") if name == "path" else None
            value = f"{value}@{revision}" if revision else value
            path = f"{key}.{name}" if key else str(name)
            yield from references_in(value, kinds, path, kind_of(str(name), kind))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from references_in(value, kinds, f"{key}[{index}]", kind)
    elif isinstance(node, str) and kind in kinds and node not in REFERENCES[kind]:
        yield key, node


def kind_of(name: str, above: str) -> str:
    """Return the key that decides what a value is: choices belong to the key above, and a token's source is a model."""
    if name == "choices":
        return above
    return "model" if name == "source" and above != "tokenizer" else name


def require_files(named: Iterable[tuple[str, str]]) -> None:
    """Raise MergingError for a missing file; each is given as the beginning of its error and its path."""
    for where, file in named:
        if not Path(file).expanduser().is_file():
            raise MergingError(f"{where}: {file}: no such file; give a small .jsonl or text file")


def require_models(named: Sequence[tuple[str, str]], options: LoadOptions = LOAD) -> None:
    """Find models, and download those of the hub.

    Args:
        named: the beginning of an error about each, and its reference.
        options: what may be done to open them.

    Raises:
        MergingError: one cannot be found. Nothing is downloaded before all local models are found.
    """
    from merging.checkpoints.checkpoint import locate

    for where, reference in sorted(named, key=lambda each: missing_part(each[1]) is None):
        model, adapter = split_reference(reference)
        try:
            locate(model, options)
            if adapter:
                locate(adapter, options, what="adapter")
        except MergingError as error:
            raise type(error)(f"{where}: {error}") from None
