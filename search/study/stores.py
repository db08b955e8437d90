"""The kinds of stores: each is a file `*_store.py` of this package, and no other code lists it.

Guarantees: a results folder has one store, and the store's own file in the folder tells of which kind it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, ClassVar, Self

import search.study
from search.errors import SearchError
from search.study.store import Store

if TYPE_CHECKING:
    from search.identity import Identity


class FolderStore(Store):
    """The store of a results folder.

    Attributes:
        FILE: the file in the folder that tells that the folder has a store of this kind.
        GIVEN: whether the user makes that file, before the search begins. A search that is started over gets a copy.

    Args:
        folder: the results folder, which holds a search.
        reading: whether to open the store only for reading.

    Raises:
        SearchError: there is no store, it is damaged, or holds something else.
    """

    FILE: ClassVar[str]
    GIVEN: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, folder: Path, reading: bool = False) -> None: ...

    @classmethod
    @abstractmethod
    def create(cls, folder: Path, name: str, identity: Mapping[str, object]) -> Self:
        """Create the store of a search, or open the existing one. Only one process at a time may do this."""

    @classmethod
    @abstractmethod
    def absence(cls, folder: Path) -> str:
        """Return why a folder holds no search yet, such as "is missing", said of its file; "" if it holds one.

        Raises SearchError if that cannot be told.
        """

    @classmethod
    @abstractmethod
    def is_busy(cls, folder: Path) -> bool:
        """Whether a worker is at work in a folder, whose store may be missing or damaged."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the search: that of its folder when it was created."""

    @property
    @abstractmethod
    def identity(self) -> Identity:
        """The identity of the search."""

    @abstractmethod
    def keep_identity(self, identity: Mapping[str, object]) -> None:
        """Replace the identity of the search."""

    @abstractmethod
    def close(self) -> None:
        """Close the store."""


@cache
def kinds() -> Sequence[type[FolderStore]]:
    """Return all kinds of stores."""
    for module in iter_modules(search.study.__path__, f"{search.study.__name__}."):
        if module.name.endswith("_store"):
            import_module(module.name)
    return FolderStore.__subclasses__()


def kind_of(folder: Path) -> type[FolderStore]:
    """Return the kind of store that a results folder has; the local one if it has none yet.

    Raises SearchError if it has several.
    """
    from search.study.local_store import LocalStore

    found = [kind for kind in kinds() if (folder / kind.FILE).exists()]
    if len(found) > 1:
        files = " and ".join(kind.FILE for kind in found)
        raise SearchError(f"{folder}: has more than one store: {files}; keep the one that holds your search")
    return found[0] if found else LocalStore
