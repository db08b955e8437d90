"""The merger: writes one candidate after another into the same live model.

Guarantees: no candidate touches the disk; recipes of one depth, dtype and config are written into the same model, which
has the tensors that `export_model` would write for the same recipe and seed, bit for bit; one that computes in float32
holds the same numbers. After an error the model's tensors are undefined until the next successful `apply`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from merging.calibration import calibrate
from merging.inductor import AnyKernels
from merging.kernel import model_dtype, run_steps
from merging.methods import METHODS
from merging.models import build_model, compute_in_float32, generation_config, merged_config
from merging.parents import ParentSet
from merging.plan import Plan, Step, make_plan
from merging.recipes.recipe import Recipe
from merging.sharing import owners, share
from merging.tokenization.merged_tokenizer import MergedTokenizer
from merging.tokenization.tokenizers import holds_tokenizer
from merging.weights_digest import digest_of_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Merger:
    """Merges recipes into a live model.

    Args:
        parents: the open parents of every recipe that will be applied.
        random_seed: the seed of the methods that draw random numbers (dare_*); the same seed gives the same model.
        kernels: the compiled kernels; without them the same bits come out, later.
        compute_dtype: float32 lets a model of 16 bits compute in that; by default each computes in its own dtype.

    Attributes:
        compute_dtype: the same; what is set before an `apply` holds for its model.
        dtypes: the dtype that transformers would load each tensor of the live model in, by the merge's names.
    """

    def __init__(
        self,
        parents: ParentSet,
        random_seed: int = 0,
        kernels: AnyKernels | None = None,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.parents = parents
        self.compute_dtype = compute_dtype
        self.dtypes: Mapping[str, torch.dtype] = {}
        self._random_seed = random_seed
        self.kernels = kernels
        self._model: PreTrainedModel | None = None
        self._config: tuple[dict[str, Any], torch.dtype | None] | None = None
        self._owners: dict[str, str] = {}
        self._written: dict[str, Step] = {}
        self._tensors: dict[str, Tensor] = {}

    @property
    def random_seed(self) -> int:
        """The seed, which stays: tensors that were written are not drawn again."""
        return self._random_seed

    def plan(self, recipe: Recipe) -> Plan:
        """Return what `apply` would do. Raises MergingError where the recipe does not fit the parents."""
        return make_plan(recipe, self.parents)

    def dtype(self, recipe: Recipe) -> torch.dtype:
        """Return the dtype of a merge as a model. Raises MergingError where the recipe does not fit the parents."""
        return model_dtype(self.plan(recipe), self.parents)

    def shapes(self, recipe: Recipe) -> Sequence[torch.Size]:
        """Return the shapes of a merge's tensors. Raises MergingError where the recipe does not fit the parents."""
        return [self.parents.shape(*step.sources()[0]) for step in self.plan(recipe).steps]

    def calibrate(self, recipe: Recipe, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Do what `apply` would do first, once for all recipes: run the parents over their calibration texts, if any.

        Args:
            recipe: the merge.
            progress: called with (what is done, texts done, in all).

        Raises:
            MergingError: the recipe does not fit the parents, or a calibration file cannot be used.
        """
        calibrate(self.plan(recipe).steps, self.parents, progress)

    @torch.inference_mode()
    def apply(self, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> PreTrainedModel:
        """Write the merge into the live model and return it, in eval mode on the parents' device.

        Tensors whose sources and numbers are those of the last candidate are left as they are; tensors that are equal
        in both are written once and share their memory.

        Args:
            recipe: the merge.
            progress: called with (tensors done, tensors in all); those that share their memory are one.

        Raises:
            MergingError: the recipe does not fit the parents.
            NonFiniteTensor: a merged tensor holds NaN or Inf.
        """
        plan = self.plan(recipe)
        model = self._live_model(recipe, plan)
        tensors = self._tensors
        simplified = [self._simplified(step) for step in plan.steps]
        wanted = owners(simplified, self.parents.placement)
        steps = [step for step in simplified if wanted[step.name] == step.name]
        self._written = {step.name: step for step in steps if self._written.get(step.name) == step}
        share(tensors, wanted, self._owners)
        work = [(step, nullcontext(tensors[step.name].data)) for step in steps if step.name not in self._written]

        def done(step: Step) -> None:
            self._written[step.name] = step
            if progress:
                progress(len(self._written), len(steps))

        run_steps(work, self.parents, self._random_seed, self.kernels, done, self.dtypes)
        self.parents.statistics.save()
        return model

    def tokenizer(self, recipe: Recipe) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the merge has. Raises MergingError if the recipe asks for one it cannot have."""
        return MergedTokenizer.of(recipe, self.parents).tokenizer

    def weights_digest(self, recipe: Recipe) -> str:
        """Return the digest of the live model's weights, which are those of this recipe, as `export_model` takes it."""
        return digest_of_model(self._tensors, self.plan(recipe), self.parents)

    def _by_name(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Return the tensors of the live model, by the names that a merge has for them."""
        found = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        layout = self.parents.architecture.layout
        return {layout.name_of(name): tensor for name, tensor in found}

    def _simplified(self, step: Step) -> Step:
        """Return a step without numbers where they do not matter, so that it is written once for all candidates."""
        if not (METHODS[step.method].keeps_base and step.base and self.parents.all_equal(step.sources())):
            return step
        return replace(
            step, method="passthrough", base=None, inputs=(step.base,), shared=(), per_input=(("scale", (None,)),)
        )

    def _live_model(self, recipe: Recipe, plan: Plan) -> PreTrainedModel:
        donor = self.parents.checkpoints[recipe.donor]
        special = None
        if recipe.vocabulary_source or holds_tokenizer(donor.folder):
            special = MergedTokenizer.of(recipe, self.parents).special
        dtype = model_dtype(plan, self.parents)
        once = self.parents.statistics.once
        # The special tokens are kept by the same memo, so that their identity will do.
        key = (recipe.donor, plan.stack, plan.rows, plan.has_head, dtype, id(special))
        config = once(("config", *key), lambda: merged_config(donor, plan, self.parents, dtype, special))
        content = once(("config's content", *key), config.to_dict), self.compute_dtype
        if self._model is None or self._config != content:
            self._model = None  # its memory goes before the next model's comes
            self._owners, self._written, self._tensors = {}, {}, {}
            self._config = content
            self._model = build_model(copy.deepcopy(config), self.parents)
            self._tensors = self._by_name(self._model)
            self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}
            if self.compute_dtype == torch.float32:
                compute_in_float32(self._model)
        self._model.generation_config = once(
            ("generation config", recipe.donor, id(special)), lambda: generation_config(donor, special)
        )
        return self._model
