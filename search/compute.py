"""What models compute in while they are scored: chosen where a search begins, by a short measurement."""

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
    """What models compute in.

    Attributes:
        dtype: the recipe's, or float32.
        own: the recipe's, as torch names it.
        speeds: what was measured here, if anything was.
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
        """Choose what models compute in: for ``auto`` what is faster on a CPU, and their own dtype anywhere else.

        Args:
            wanted: the setting.
            own: the dtype of the models' weights.
            shapes: the shapes of these.
            device: where the models are.
            backend: what runs them.
            fits: whether memory has room for them in float32.
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
        """Choose what the merges of a search compute in, by the first of 16 bits; `fits` as in `choose`."""
        recipe = next((each for each in recipes if merger.plan(each).model_dtype.itemsize == 2), recipes[0])
        device, plan = str(merger.parents.device), merger.plan(recipe)
        shapes = [entry.shape for entry in plan.entries]
        return cls.choose(settings.compute_dtype, plan.model_dtype, shapes, device, settings.backend, fits)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """What a `Merger` takes for it."""
        return torch.float32 if self.dtype == "float32" else None

    @property
    def itemsize(self) -> int:
        """The bytes of an element of a live model."""
        return max(self.own.itemsize, torch.float32.itemsize) if self.dtype == "float32" else self.own.itemsize

    def __str__(self) -> str:
        # What has more bits than float32 is never narrowed.
        computes_in = torch.float32 if self.dtype == "float32" and self.own.itemsize == 2 else self.own
        return str(computes_in).removeprefix("torch.")

    def instead(self, recorded: Literal["recipe", "float32"]) -> tuple[Compute, str]:
        """Return what a search began with, and what that costs here, in a sentence, where this would be better."""
        there = replace(self, dtype=recorded)
        if self.speeds is None or recorded == self.dtype:
            return there, ""
        times = self.speeds.speedup if recorded == "recipe" else 1 / self.speeds.speedup
        cost = f"{self} would be {times:.1f}x as fast" if times > 1 else ""
        if recorded == "float32" and not self.speeds.fits:
            cost = f"memory has room only for {self}"
        return there, cost and f"scoring computes in {there}, as where this search began; here {cost}"
