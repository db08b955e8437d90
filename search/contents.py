"""The contents of a search's models and files: hashed when it begins or continues, and found again for an export."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from merging import Contents, FileChanged, FileDigests, LoadOptions, contents_of, parts_named
from search.errors import SearchError, start_over
from search.identity import (
    BESIDE,
    COMMIT,
    CONTENTS,
    DIGESTS,
    FILE,
    PLACE,
    PROBLEMS,
    Identity,
    Names,
    changed,
    differing,
)
from search.progress import Progress
from search.space.config import SearchConfig
from search.space.sections import MergingSection

# Hashing that takes less time is not worth a line of progress.
_QUIET_SECONDS = 1.0


class ParentContents:
    """The contents of the models and files that a config names.

    Args:
        config: the search's config.
        digests: digests of their files, made before any of them is opened.
        results: the results folder.

    Raises:
        MergingError: a model is missing.
    """

    def __init__(self, config: SearchConfig, digests: FileDigests, results: Path) -> None:
        self._config = config
        self._results = results
        self._digests = digests
        self._parts = {part.place: part for part in _parts(config)}
        self._hashed: list[Future[str]] = []

    @property
    def known(self) -> bool:
        """Whether the files need not be read, because all digests are known."""
        return all(map(self._digests.known, _files(self._parts.values())))

    def begin(self) -> None:
        """Start hashing the files in the background."""
        self._hashed = self._digests.begin(_files(self._parts.values()))

    def wait(self, progress: Progress) -> None:
        """Wait until all files are hashed."""
        if not wait(self._hashed, _QUIET_SECONDS).not_done:
            return
        progress.begin("hashing the parents", 1)
        progress.phase("files")
        for done, future in enumerate(self._hashed, start=1):
            future.exception()
            progress.step(done, len(self._hashed))

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Score a model inside. If a file has changed by the end, raise SearchError in place of the model's own error.

        A file that is gone counts as unchanged: it cannot give the model other weights.
        """
        try:
            yield
        except Exception:
            self._require_unchanged()
            raise
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        for part in self._parts.values():
            if not all(map(self._digests.is_unchanged, _files([part]))):
                raise SearchError(
                    f"model {part.place}: has changed while the search runs, and the scores so far are of the old "
                    "files; restore it and run the same command again, or start over with "
                    f"{start_over(self._results)}"
                )

    def identity(self, problems: Mapping[str, object]) -> Identity:
        """Return the identity of the search, given the digest and the splits of the problems.

        Raises SearchError if a file has changed since its model was opened.
        """
        sources = [Path(entry.source) for entry in self._config.evaluation.problems]
        digests = {str(source): {PROBLEMS: str(problems["sha256"])} for source in sources if source.is_absolute()}
        digests |= {name: _digests_of(part, self._digests) for name, part in self._parts.items()}
        bases = (self._results.resolve(), self._config.folder.resolve())
        found = {name: _described(name, bases) | {DIGESTS: kinds} for name, kinds in digests.items()}
        return self._config.identity | {"problems": dict(problems), CONTENTS: found}


def find(
    identity: Identity,
    recipe: Mapping[str, object],
    results: Path,
    digests: FileDigests,
    settings: MergingSection,
    progress: Callable[[str, int, int], None] | None = None,
) -> Names:
    """Return the present places of the models and files that a recipe names, by these names.

    They are looked for where they were; then at the same path from the results folder; then from the current folder, at
    the path that they had from the config.

    Args:
        identity: the identity of the recipe's search.
        recipe: the recipe, as plain data.
        results: the results folder.
        digests: digests of the files.
        settings: the config's section, which says what may be read.
        progress: called with (phase, files done, files in all).

    Raises:
        SearchError: one is missing, or has changed since it was scored.
    """
    known = identity.get(CONTENTS, {})
    names = dict.fromkeys(part for text in _texts(recipe) for part in parts_named(text, known))
    found = {name: list(_candidates(name, known[name], results, settings.load_options)) for name in names}
    hashed = [file for parts in found.values() for file in _files(parts[:1]) if not digests.known(file)]
    for done, file in enumerate(hashed, start=1):
        digests.begin([file])[0].exception()
        if progress:
            progress("hashing the parents", done, len(hashed))
    return {name: _chosen(name, known[name], parts, results, digests) for name, parts in found.items()}


def on_disk(identity: Mapping[str, Any], results: Path) -> Names:
    """Return where the models and files of a search are on this disk, by name, without reading their contents.

    Raises SearchError if one is missing; nothing is downloaded.
    """
    known = identity.get(CONTENTS, {})
    return {name: _on_disk(name, held, results) for name, held in known.items() if PROBLEMS not in held[DIGESTS]}


def _on_disk(name: str, held: Mapping[str, Any], results: Path) -> str:
    place = next((place for place in _places(name, held, results) if Path(place).exists()), None)
    if place is None and (commit := held[DIGESTS].get(COMMIT)):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        with contextlib.suppress(LocalEntryNotFoundError):
            place = snapshot_download(name.partition("@")[0], revision=commit, local_files_only=True)
    if place is None:
        raise SearchError(f"{results}: model {name}: is not on this disk")
    return place


def find_problems(identity: Identity, source: str, results: Path) -> str:
    """Return the present place of a file of problems, found as in `find`; any other source is returned as it is."""
    held = identity.get(CONTENTS, {}).get(source)
    return next((place for place in _places(source, held, results) if Path(place).exists()), source) if held else source


def _candidates(name: str, held: Mapping[str, Any], results: Path, options: LoadOptions) -> Iterator[Contents]:
    """Yield the contents of each place where a model or file was, or may have been moved to."""
    if commit := held[DIGESTS].get(COMMIT):
        # With its commit, a model whose branch has moved is not downloaded again.
        yield from contents_of(f"{name.partition('@')[0]}@{commit}", options)
        return
    for place in _places(name, held, results):
        if FILE in held[DIGESTS] and Path(place).is_file():
            yield _file(place)
        elif FILE not in held[DIGESTS] and Path(place).is_dir():
            yield from contents_of(place, options, weights="weights" in held[DIGESTS])


def _places(name: str, held: Mapping[str, Any], results: Path) -> list[str]:
    """Return the places where a model or file was, or may have been moved to."""
    bases = (results.resolve(), Path.cwd())
    beside = [str((base / path).resolve()) for base, path in zip(bases, held[BESIDE], strict=False)]
    return list(dict.fromkeys([name, held[PLACE], *beside]))


def _chosen(
    name: str, held: Mapping[str, Any], candidates: Sequence[Contents], results: Path, digests: FileDigests
) -> str:
    refusal = ""
    for part in candidates:
        if not (kinds := differing(held[DIGESTS], _digests_of(part, digests))):
            return part.place
        refusal = refusal or changed(part.place, kinds)
    if refusal:
        raise SearchError(
            f"{results}: {refusal} since it was scored; restore it, or start over with {start_over(results)}"
        )
    kind = "file" if FILE in held[DIGESTS] else "model"
    raise SearchError(
        f"{results}: {kind} {name}: is gone; put it back, or run the search once more with a config that "
        "names its new place"
    )


def _digests_of(part: Contents, digests: FileDigests) -> dict[str, str]:
    try:
        return part.digests(digests.of)
    except FileChanged:
        raise SearchError(f"model {part.place}: has changed while it was read; run the same command again") from None


def _texts(node: object) -> Iterator[str]:
    if isinstance(node, Mapping | list):
        for item in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(item)
    elif isinstance(node, str):
        yield node


def _files(parts: Iterable[Contents]) -> list[Path]:
    return [file for part in parts if not part.commit for files in part.files.values() for file in files]


def _parts(config: SearchConfig) -> Iterator[Contents]:
    options = config.merging.load_options
    for reference, is_model in config.named():
        if is_model:
            yield from contents_of(reference, options)
        elif Path(reference).is_file():  # else whoever reads it reports that
            yield _file(reference)
    tokenizer = config.evaluation.prompt.tokenizer
    if tokenizer and tokenizer not in {reference for reference, _ in config.named()}:
        yield from contents_of(tokenizer, options, weights=False)


def _file(place: str) -> Contents:
    return Contents(place, None, {FILE: (Path(place),)})


def _described(name: str, bases: tuple[Path, ...]) -> dict[str, object]:
    place = Path(name).expanduser()
    if not place.exists():  # a hub id
        return {PLACE: name, BESIDE: []}
    return {PLACE: str(place.resolve()), BESIDE: [os.path.relpath(place.resolve(), base) for base in bases]}
