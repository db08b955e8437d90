"""The errors of the search package: each names the file and the key, or the folder, and what to do."""

from __future__ import annotations


class SearchError(Exception):
    """A config, a results folder or a search that cannot be done as asked."""
