"""The hub's cache: whether all of a model is there, and how to get it.

Guarantees: downloads nothing. Asks the hub once about each model that is not here, with the hub client's timeout.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from shutil import disk_usage

from merging import MergingError
from merging.checkpoints.checkpoint import stored_weights
from merging.checkpoints.model_files import WANTED_FILES
from merging.errors import first_line
from merging.sizes import shown_size
from search.preflight.finding import Finding
from search.results import existing


def missing_from_cache(parts: Iterable[str]) -> Iterator[Finding]:
    """Yield which models and adapters with a hub id are missing, and how to get them."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    free = disk_usage(existing(cache)).free
    for part in parts:
        if Path(part).expanduser().is_dir() or (reason := _reason(part)) is None:
            continue
        name, _, revision = part.partition("@")
        told, size, may_exist = _on_the_hub(name, revision)
        command = shlex.join(["hf", "download", name, *(["--revision", revision] if revision else [])])
        remedy = f"run {command}" if may_exist else ""
        if size:
            told += f", and its cache {cache} has {shown_size(max(0, free))} free"
            free -= size  # the next one gets what this one leaves
            remedy = remedy if free >= 0 else f"make room, or set HF_HOME to a folder on another disk; then {remedy}"
        yield Finding("problem", "parents", f"{part}: {reason}; {told}", remedy)


def _reason(part: str) -> str | None:
    """Return why a model cannot be read from the cache; None if it can."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, revision = part.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        return None if stored_weights(folder) or stored_weights(folder, adapter=True) else "only a part is here"
    except LocalEntryNotFoundError:
        return "not downloaded yet"
    except MergingError as error:  # an index names files that are not there
        return f"only a part is here ({error})"


def _on_the_hub(name: str, revision: str) -> tuple[str, int, bool]:
    """Return what the hub says about a model, the bytes to download (0 if unknown), and whether the model may exist."""
    from huggingface_hub import HfApi, constants, is_offline_mode
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if is_offline_mode():
        return "the hub is not asked, because HF_HUB_OFFLINE is set", 0, True
    try:
        info = HfApi().model_info(
            name, revision=revision or None, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except GatedRepoError:
        return "its owner grants access: ask for it on its page, and log in with hf auth login", 0, True
    except RepositoryNotFoundError:
        return "the hub has no such model (or it is private: log in with hf auth login); check its name", 0, False
    except RevisionNotFoundError:
        return f"the hub has no revision {revision} of it; check the part after the @", 0, False
    except Exception as error:  # the errors of the hub's client, proxies and sockets have no common base
        return f"the hub cannot be asked ({first_line(error).rstrip('.')})", 0, True
    files = [each for each in info.siblings or () if any(fnmatch(each.rfilename, one) for one in WANTED_FILES)]
    size = sum(each.size or 0 for each in files)
    gated = "; its owner grants access: log in with hf auth login" if info.gated else ""
    return f"it has {shown_size(size)} to download{gated}", size, True
