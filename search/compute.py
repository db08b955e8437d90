"""The dtype that models compute in while they are scored, chosen when a search begins by a short measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from evaluation import BackendName, ComputeDtype, Speeds, compute_speeds
from merging import Merger, Recipe
from search.space.sections import EvaluationSection


@dataclass(frozen=True, slots=True)
class Compute:
    """The dtype that models compute in.

    Attributes:
        dtype: the recipe's, or float32.
        own: the recipe's, as torch names it.
        speeds: the speeds measured here, if any.
    """

    dtype: Literal["recipe", "float32"]
    own: torch.dtype
    speeds: Speeds | None = None

    @classmethod
    def choose(
        cls,
        wanted: ComputeDtype,
        own: torch.dtype,
        shapes: Sequence[Sequence[int]],
        device: str = "cpu",
        backend: BackendName = "transformers",
        fits: Callable[[], bool] = lambda: True,
    ) -> Compute:
        """Choose the compute dtype: ``auto`` means the faster one on a CPU, and the models' own dtype elsewhere.

        Args:
            wanted: the setting.
            own: the dtype of the models' weights.
            shapes: the shapes of the weights.
            device: the models' device.
            backend: the generation backend.
            fits: returns whether memory has room for the models in float32.
        """
        if wanted != "auto":
            return cls(wanted, own)
        speeds = compute_speeds(shapes, own, device) if backend == "transformers" else None
        speeds = speeds and replace(speeds, fits=speeds.fits and fits())
        on_cpu = torch.device(device).type == "cpu"
        return cls(speeds.choice if speeds and on_cpu else "recipe", own, speeds)

    @classmethod
    def of_merges(
        cls, merger: Merger, recipes: Sequence[Recipe], settings: EvaluationSection, fits: Callable[[], bool]
    ) -> Compute:
        """Choose the compute dtype of a search's merges by the first one of 16 bits; see `choose` for `fits`."""
        recipe = next((each for each in recipes if merger.plan(each).model_dtype.itemsize == 2), recipes[0])
        device, plan = str(merger.parents.device), merger.plan(recipe)
        shapes = [entry.shape for entry in plan.entries]
        return cls.choose(settings.compute_dtype, plan.model_dtype, shapes, device, settings.backend, fits)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The `compute_dtype` of a `Merger`; None is the recipe's."""
        return torch.float32 if self.dtype == "float32" else None

    @property
    def itemsize(self) -> int:
        """The bytes per element of a live model."""
        return max(self.own.itemsize, torch.float32.itemsize) if self.dtype == "float32" else self.own.itemsize

    def __str__(self) -> str:
        # A dtype wider than float32 is never narrowed.
        computes_in = torch.float32 if self.dtype == "float32" and self.own.itemsize == 2 else self.own
        return str(computes_in).removeprefix("torch.")

    def instead(self, recorded: Literal["recipe", "float32"]) -> tuple[Compute, str]:
        """Return the dtype that a search began with and, if this one is better here, a sentence that says why."""
        there = replace(self, dtype=recorded)
        if self.speeds is None or recorded == self.dtype:
            return there, ""
        times = self.speeds.speedup if recorded == "recipe" else 1 / self.speeds.speedup
        cost = f"{self} would be {times:.1f}x as fast" if times > 1 else ""
        if recorded == "float32" and not self.speeds.fits:
            cost = f"memory has room only for {self}"
        return there, cost and f"scoring computes in {there}, as where this search began; here {cost}"
