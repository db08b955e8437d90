"""Merge methods: one file per family, all of them in `METHODS`."""

from importlib import import_module
from pkgutil import walk_packages

from merging.methods.declarations import Parameter, Scope
from merging.methods.registry import METHODS, Method

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)  # its decorators register its methods

__all__ = ["METHODS", "Method", "Parameter", "Scope"]
