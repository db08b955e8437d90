"""The merger: writes one candidate after another into the same live model.

Guarantees: no candidate touches the disk. Recipes of one depth, dtype and config share one live model. Its tensors
equal those that `export_model` writes for the same recipe and seed, bit for bit; a model that computes in float32 holds
the same values. After an error the model's tensors are undefined until the next successful `apply`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from merging.calibration import calibrate
from merging.execution import run_steps
from merging.kernels import EAGER, Kernels
from merging.live_model import build_model, build_skeleton, compute_in_float32
from merging.merged_config import generation_config, merged_config
from merging.methods import METHODS
from merging.parents import ParentSet
from merging.planning.parameter_lookup import structure_of
from merging.planning.plan import Plan, Step
from merging.recipes.recipe import Recipe
from merging.residency.memory_errors import with_room
from merging.sharing import owners, share
from merging.sizes import runs
from merging.slopes import dots
from merging.tokenization.merged_tokenizer import MergedTokenizer
from merging.tokenization.tokenizers import has_tokenizer
from merging.weights_digest import digest_of_groups, digest_of_model

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

# A space with layer ranges has too many structures to keep every plan (1 MB per 1,000 tensors).
_STRUCTURES = 32
# The bytes of a stream's tensors that are merged together: enough to keep the processor busy, with little memory.
_GROUP_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}


@dataclass(frozen=True, slots=True)
class _Target:
    """The live model that a structure is merged into.

    Attributes:
        config: the config that it is built from.
        content: the config as plain data; structures with equal content share the live model.
        generation_config: its generation config.
    """

    config: PreTrainedConfig
    content: Mapping[str, Any]
    generation_config: GenerationConfig


class Merger:
    """Merges recipes into a live model.

    Args:
        parents: the open parents of every recipe that will be applied.
        random_seed: the seed of the methods that draw random numbers (dare_*); the same seed gives the same model.
        kernels: the kernels to compute with; every choice gives the same bits.
        compute_dtype: float32 makes 16-bit models compute in float32; by default each model computes in its own dtype.

    Attributes:
        compute_dtype: the dtype to compute in; a new value takes effect with the next `apply`.
    """

    def __init__(
        self,
        parents: ParentSet,
        random_seed: int = 0,
        kernels: Kernels = EAGER,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.parents = parents
        self.compute_dtype = compute_dtype
        self._random_seed = random_seed
        self.kernels = kernels
        self._model: PreTrainedModel | None = None
        self._config: tuple[Mapping[str, Any], torch.dtype | None] | None = None
        self._plan_of = lru_cache(_STRUCTURES)(lambda structure: Plan.of(structure, parents))
        self._target_of = lru_cache(_STRUCTURES)(partial(_target, parents, self._plan_of))
        self._skeleton: tuple[Mapping[str, Any], PreTrainedModel] | None = None
        self._owners: dict[str, str] = {}
        self._written: dict[str, Step] = {}
        self._tensors: dict[str, Tensor] = {}
        # By name, the dtype in which transformers would load each tensor.
        self._dtypes: dict[str, torch.dtype] = {}

    @property
    def random_seed(self) -> int:
        """The seed; a new value takes effect with the next `apply`."""
        return self._random_seed

    @random_seed.setter
    def random_seed(self, seed: int) -> None:
        self._random_seed, self._written = seed, {}  # or written tensors would keep their random numbers

    def is_random(self, recipe: Recipe) -> bool:
        """Whether a merge draws random numbers, so that its weights depend on the seed."""
        return any(METHODS[step.method].random for step in self.steps(recipe))

    def plan(self, recipe: Recipe) -> Plan:
        """Return the plan of a recipe's structure. Raises MergingError if the recipe does not fit the parents."""
        structure, _ = structure_of(recipe)
        return self._plan_of(structure)

    def steps(self, recipe: Recipe) -> tuple[Step, ...]:
        """Return the steps of `apply`. Raises MergingError if the recipe does not fit the parents."""
        return self.plan(recipe).at(recipe)

    def calibrate(self, recipe: Recipe, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Run the parents over their calibration texts, if any; otherwise the first `apply` that needs it does so.

        Args:
            recipe: the merge.
            progress: called with (phase, texts done, texts in all).

        Raises:
            MergingError: the recipe does not fit the parents, or a calibration file cannot be used.
        """
        calibrate(self.steps(recipe), self.parents, progress)

    @torch.no_grad()  # not inference mode: tensors made there can have no gradient
    def apply(self, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> PreTrainedModel:
        """Write the merge into the live model and return it, in eval mode on the parents' device.

        Skips tensors whose sources and parameters did not change since the last candidate. Tensors that are made in the
        same way are written once and share their memory.

        Args:
            recipe: the merge.
            progress: called with (tensors done, tensors in all); tensors that share their memory count once.

        Raises:
            MergingError: the recipe does not fit the parents.
            NonFiniteTensor: a merged tensor holds NaN or Inf.
            OutOfMemory: memory ran out, and the parents have none to give up.
        """
        planned = self.steps(recipe)
        model = self._live_model(recipe)
        tensors = self._tensors
        simplified = [self._simplified(step) for step in planned]
        wanted = owners(simplified, self.parents.placement)
        steps = [step for step in simplified if wanted[step.name] == step.name]
        self._written = {step.name: step for step in steps if self._written.get(step.name) == step}
        share(tensors, wanted, self._owners)
        work = [(step, nullcontext(tensors[step.name].data)) for step in steps if step.name not in self._written]

        def done(step: Step) -> None:
            self._written[step.name] = step
            if progress:
                progress(len(self._written), len(steps))

        run_steps(work, self.parents, self._random_seed, self.kernels, done, self._dtypes)
        self.parents.statistics.save()
        return model

    def skeleton(self, recipe: Recipe) -> PreTrainedModel:
        """Return a recipe's model on the `meta` device, for callers that take its tensors from `stream`.

        Raises MergingError if the recipe does not fit the parents.
        """
        structure, _ = structure_of(recipe)
        target = self._target_of(structure)
        if self._skeleton is None or self._skeleton[0] != target.content:
            self._skeleton = target.content, build_skeleton(copy.deepcopy(target.config), self.parents)
        model = self._skeleton[1]
        model.generation_config = target.generation_config
        return model

    def stream(
        self, recipe: Recipe, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Merge a recipe a few tensors at a time, without a live model; yield each with its name in a checkpoint.

        The tensors equal those of `apply` in the recipe's dtype, bit for bit. They come on the parents' device, in the
        order of the skeleton's layers, tied ones once.

        Args:
            recipe: the merge.
            progress: called with (tensors done, tensors in all).

        Raises:
            MergingError: the recipe does not fit the parents.
            NonFiniteTensor: a merged tensor holds NaN or Inf.
        """
        for group in self._groups(recipe, progress):
            while group:  # emptied, so that its memory is free before the next group is made
                name = next(iter(group))
                yield from self.parents.architecture.layout.disassemble(name, group.pop(name)).items()

    def streamed_digest(self, recipe: Recipe) -> str:
        """Return the `weights_digest` of the tensors of `stream`; merges them again."""
        return digest_of_groups(self._groups(recipe), self.plan(recipe), self.parents)

    def _groups(
        self, recipe: Recipe, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Merge a few tensors at a time; yield them by their names in the merge."""
        steps = {step.name: self._simplified(step) for step in self.steps(recipe)}
        layout, device = self.parents.architecture.layout, self.parents.device
        wanted = {layout.name_of(live): tensor for live, tensor in _tensors_of(self.skeleton(recipe)).items()}
        calibrate(steps.values(), self.parents)
        done = 0

        def tell(_: Step) -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, len(wanted))

        most = _GROUP_BYTES["cpu" if device.type == "cpu" else "cuda"]
        for names in runs(wanted, lambda name: wanted[name].nbytes, most):
            group = {name: torch.empty_like(wanted[name], device=device, requires_grad=False) for name in names}
            work = [(steps[name], nullcontext(tensor)) for name, tensor in group.items()]
            with torch.no_grad():
                run_steps(work, self.parents, self._random_seed, self.kernels, tell)
            del work
            yield group
            del group
        self.parents.statistics.save()

    def take_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the live model's tensors by their names in the merge, and clear them.

        Tensors that share their memory have one gradient, their sum, under the name of the first.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in self._tensors.items():
            if tensor.grad is not None:
                owner = self._owners.get(name, name)
                found[owner] = found[owner].float() + tensor.grad if owner in found else tensor.grad
                tensor.grad = None
        return found

    def slopes(self, gradients: Mapping[str, Tensor], low: Recipe, high: Recipe) -> dict[str, float]:
        """Return, per tensor, how much a function of the weights changes from one recipe to another, to first order.

        This is the scalar product of the function's gradient with the difference of the two merges. Both are merged in
        float32 and not rounded to the output's dtype, so that small differences count; masks are drawn as in `apply`.
        Neither is written into the live model.

        Args:
            gradients: the function's gradients, as `take_gradients` returns them.
            low: one recipe.
            high: another recipe of the same structure.

        Raises:
            MergingError: a recipe does not fit the parents.
            NonFiniteTensor: a merged tensor holds NaN or Inf.
        """
        return self._changes([pair for pair in self._pairs(low, high) if pair[0].name in gradients], gradients)

    @contextmanager
    def slopes_in_backward(self, pairs: Sequence[tuple[Recipe, Recipe]]) -> Iterator[Sequence[dict[str, float]]]:
        """Take slopes during the live model's backward passes, so that only one tensor's gradient exists at a time.

        Inside this context, each backward pass adds the slopes of its gradient, then clears it. This needs no memory
        for the whole gradient, but each pass merges every tensor again.

        Args:
            pairs: (low, high) recipes of the live model's structure.

        Yields:
            Per pair, the changes by tensor, summed over the passes so far.
        """
        found: list[dict[str, float]] = [{} for _ in pairs]
        steps: dict[str, list[tuple[int, tuple[Step, Step]]]] = {}
        for index, recipes in enumerate(pairs):
            for pair in self._pairs(*recipes):
                steps.setdefault(pair[0].name, []).append((index, pair))

        def take(name: str, parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            for index, pair in steps.get(name, ()):
                change = self._changes([pair], {name: gradient})[name]
                found[index][name] = found[index].get(name, 0.0) + change

        names: dict[Tensor, str] = {}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, torch.nn.Parameter):
                names.setdefault(tensor, self._owners.get(name, name))  # a tied one has several names
        with ExitStack() as hooks:
            for parameter, name in names.items():
                parameter.requires_grad_(True)
                hooks.callback(parameter.requires_grad_, False)
                hook = parameter.register_post_accumulate_grad_hook(partial(take, name))  # type: ignore[no-untyped-call]
                hooks.callback(hook.remove)
            yield found

    def _pairs(self, low: Recipe, high: Recipe) -> list[tuple[Step, Step]]:
        """Return the pairs of steps in which two recipes make different tensors."""
        pairs = zip(self.steps(low), self.steps(high), strict=True)
        return [pair for pair in pairs if self._simplified(pair[0]) != self._simplified(pair[1])]

    def _changes(self, pairs: Sequence[tuple[Step, Step]], gradients: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the products of gradients with the differences of two merges, by tensor."""
        before, after = (
            dots([pair[end] for pair in pairs], gradients, self.parents, self._random_seed, self.kernels)
            for end in (0, 1)
        )
        return {name: after[name] - before[name] for name in before}

    def tokenizer(self, recipe: Recipe) -> PreTrainedTokenizerBase:
        """Return the merge's tokenizer. Raises MergingError if the recipe asks for one that is not available."""
        return MergedTokenizer.of(recipe, self.parents).tokenizer

    def weights_digest(self, recipe: Recipe) -> str:
        """Return the digest of the live model's weights, which must be those of this recipe, for `export_model`."""
        return digest_of_model(self._tensors, self.plan(recipe), self.parents)

    def _by_name(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Return the tensors of the live model, by their names in the merge."""
        found = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        layout = self.parents.architecture.layout
        return {layout.name_of(name): tensor for name, tensor in found}

    def _simplified(self, step: Step) -> Step:
        """Drop parameters that do not matter from a step, so that its tensor is written once for all candidates."""
        if METHODS[step.method].keeps_base and step.base and self.parents.all_equal(step.sources()):
            return step.passed_through(step.base)
        return step

    def _live_model(self, recipe: Recipe) -> PreTrainedModel:
        """Return the live model that a recipe is merged into; builds a new one only if the config changed."""
        structure, _ = structure_of(recipe)
        target = self._target_of(structure)
        content = target.content, self.compute_dtype
        if self._model is None or self._config != content:
            self._model = None  # frees its memory before the next model is built
            self._owners, self._written, self._tensors = {}, {}, {}
            self._config = content
            self._model = self._with_room(partial(build_model, copy.deepcopy(target.config), self.parents))
            self._tensors = self._by_name(self._model)
            self._dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}
            if self.compute_dtype == torch.float32:
                self._with_room(partial(compute_in_float32, self._model))
        self._model.generation_config = target.generation_config
        return self._model

    def _with_room(self, work: Callable[[], T]) -> T:
        """Make the live model; if its devices have no room for it, the parents give up theirs."""
        devices = self.parents.placement.devices
        what = f"{', '.join(map(str, devices))} ran out of memory while the live model was made"
        return with_room(work, lambda: sum(map(self.parents.give_up_some, devices)), what)


def streamed_bytes(largest: int, kind: Literal["cpu", "cuda"]) -> int:
    """Return the most bytes that `Merger.stream` holds: a group of tensors, and one tensor of the group before.

    Args:
        largest: the bytes of the largest tensor.
        kind: the kind of device.
    """
    return max(_GROUP_BYTES[kind], largest) + largest


def _tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a model's tensors by their names there, tied ones once."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def _target(parents: ParentSet, plan_of: Callable[[Recipe], Plan], structure: Recipe) -> _Target:
    """Return what a structure is merged into."""
    config_source = parents.checkpoints[structure.config_source]
    special = None
    if structure.vocabulary_source or has_tokenizer(config_source.folder):
        special = MergedTokenizer.of(structure, parents).special
    config = merged_config(config_source, plan_of(structure), parents, special)
    return _Target(config, config.to_dict(), generation_config(config_source, special))
