"""Merge methods: one file a family, all of them in `METHODS`."""

from merging.methods import linear, passthrough, slerp, task_vectors  # noqa: F401 - importing registers them
from merging.methods.registry import METHODS, Method, Parameter, Scope

__all__ = ["METHODS", "Method", "Parameter", "Scope"]
