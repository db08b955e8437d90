"""Problem sets from the Hugging Face hub, and others that `datasets` reads: saved folders and Parquet files.

`datasets` takes a second to import, so it is imported when a set is read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from evaluation.errors import EvaluationError
from evaluation.problems.files import JsonObject

_SPLITS = ("test", "train")
_SAVED = ("dataset_dict.json", "state.json")


def read_hub(reference: str) -> Iterator[tuple[str, JsonObject]]:
    """Yield ("NAME[INDEX]", row) of a data set's test split, or else of its train split.

    Args:
        reference: ``owner/name`` or ``owner/name:config`` on the hub, a folder, or a Parquet file.

    Raises:
        EvaluationError: `datasets` cannot load it.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        found = _load(datasets, reference)
    except Exception as error:  # errors of datasets, its builders, the network and pyarrow have no common base
        reason = str(error).strip().partition("\n")[0]
        raise EvaluationError(f"problems {reference}: datasets cannot load it: {reason}; or give a file") from error
    if isinstance(found, datasets.DatasetDict):
        split = next((name for name in _SPLITS if name in found), None)
        if split is None:
            raise EvaluationError(
                f"problems {reference}: has no split {' or '.join(_SPLITS)}; its splits are {', '.join(found)}"
            )
        found = found[split]
    for index, row in enumerate(found):
        yield f"{reference}[{index}]", row


def _load(datasets: Any, reference: str) -> Any:
    path = Path(reference).expanduser()
    if path.is_dir() and any((path / name).exists() for name in _SAVED):
        return datasets.load_from_disk(str(path))
    if path.is_dir():
        return datasets.load_dataset(str(path))
    if path.is_file():
        return datasets.load_dataset("parquet", data_files=str(path))
    name, _, config = reference.partition(":")
    _require_answer(name)
    return datasets.load_dataset(name, config or None)


def _require_answer(name: str) -> None:
    """Raise ConnectionError if the hub does not answer: `datasets` 5.2 retries for many minutes."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The errors of the HTTP client that this huggingface_hub uses, and OSError.
    unreachable = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    try:
        HfApi().dataset_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HfHubHTTPError, OfflineModeIsEnabled):
        return  # `datasets` handles an answer, or uses its cache
    except unreachable as error:
        raise ConnectionError(
            f"{constants.ENDPOINT} does not answer ({error}); with HF_HUB_OFFLINE=1 the cache is used"
        ) from None
