"""Merge methods: one file a family, all of them in `METHODS`."""

from merging.methods import (  # noqa: F401 - importing registers them
    arcee_fusion,
    calibrated,
    competition,
    consensus,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    ram,
    sce,
    singular,
    slerp,
    task_vectors,
    wudi,
)
from merging.methods.registry import METHODS, Method, Parameter, Scope

__all__ = ["METHODS", "Method", "Parameter", "Scope"]
