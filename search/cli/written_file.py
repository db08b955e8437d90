"""A file that an option names: it appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from merging.caches import put
from search.errors import SearchError


def write_whole(file: Path, content: bytes, option: str) -> None:
    """Write a file, or leave what was there as it was.

    Args:
        file: the file to write; if it is a link, the file that it leads to is written.
        content: the content of the file.
        option: the option that named the file.

    Raises:
        SearchError: it cannot be written.
    """
    try:
        if file.exists() and not file.is_file():  # such as /dev/stdout, which must not be replaced by a file
            file.write_bytes(content)
        else:
            put(file.resolve(), content)
    except OSError as error:
        raise SearchError(f"{file}: cannot be written: {error.strerror}; give another file with {option}") from None
