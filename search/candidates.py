"""Candidates for parents: models that one evaluator scores one after the other.

Guarantees: all are opened and known to fit in memory before the first is loaded; each is freed before the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from evaluation import (
    BackendName,
    ComputeDtype,
    EvaluationError,
    Evaluator,
    OutcomeCounter,
    Report,
    Room,
    prompt_notes,
)
from evaluation.generation.out_of_memory import release_unused
from evaluation.generation.text import configured_ends
from merging import (
    MergeOptions,
    Merger,
    MergingError,
    ParentSet,
    Recipe,
    compute_in_float32,
    load_model,
    load_tokenizer,
)
from merging.notes import notes_of
from search.compute import Compute
from search.errors import SearchError, is_of_the_candidate
from search.planned_memory import Generation, is_enough, plans_of_evaluation


@dataclass(frozen=True)
class ParentCandidate:
    """A model that is to be scored.

    Attributes:
        name: the displayed name.
        reference: a folder or a hub id, or the recipe of a merge.
        options: the device, and how to load it.
        compute_dtype: the requested compute dtype.
        backend: the generation backend.
        fits: whether memory has room for it in float32.
        room: the memory that its generation may take.
    """

    name: str
    reference: str | Recipe
    options: MergeOptions
    compute_dtype: ComputeDtype
    backend: BackendName
    fits: bool
    room: Room

    @classmethod
    def planned(
        cls,
        name: str,
        reference: str | Recipe,
        options: MergeOptions,
        compute_dtype: ComputeDtype,
        backend: BackendName,
        generation: Callable[[PreTrainedTokenizerBase], Generation],
    ) -> ParentCandidate:
        """Plan the memory of a candidate without loading it. The other arguments are its attributes.

        Args:
            generation: returns what is generated with a tokenizer.

        Raises:
            SearchError: memory has no room for it.
            MergingError: it is missing or broken.
            EvaluationError: the prompts cannot be made.
        """
        own, wide = plans_of_evaluation(_spread(reference, options), options, generation)
        fits = is_enough(wide, own)
        may_widen = compute_dtype == "auto" and fits and backend == "transformers" and options.device.startswith("cpu")
        plan = wide if compute_dtype == "float32" or may_widen else own
        if plan.refusal:
            raise SearchError(f"{name}: has no room here: {plan.refusal}")
        return cls(name, reference, options, compute_dtype, backend, fits, plan.room)

    @contextlib.contextmanager
    def loaded(
        self, random_seed: int, progress: Callable[[str, int, int], None], tell: Callable[..., None]
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Yield its live model, its tokenizer and its generation config.

        Args:
            random_seed: the seed of a merge that draws random numbers.
            progress: called with (phase, done, total).
            tell: called with notes for the user.
        """
        reference, device, load = _spread(self.reference, self.options), self.options.device, self.options.load
        if isinstance(reference, str):
            plain = load_model(reference, device, options=load, note=tell)
            if self._compute(plain.dtype, [each.shape for each in plain.parameters()], device).torch_dtype:
                compute_in_float32(plain)
            yield plain, load_tokenizer(reference, load), plain.generation_config
            return
        with ParentSet.open(reference, replace(self.options, memory_budget=0)) as parents:
            merger = Merger(parents, random_seed)
            plan = merger.plan(reference)
            tell(*notes_of(reference, plan, parents))
            chosen = self._compute(plan.model_dtype, [entry.shape for entry in plan.entries], str(parents.device))
            merger.compute_dtype = chosen.torch_dtype
            model = merger.apply(reference, lambda done, total: progress("merging", done, total))
            yield model, merger.tokenizer(reference), parents.checkpoints[reference.config_source].generation_config

    def scored(
        self,
        evaluator: Evaluator,
        random_seed: int,
        progress: Callable[[str, int, int], None],
        tell: Callable[..., None],
    ) -> Report:
        """Load and score it; see `loaded` for the other arguments."""
        with self.loaded(random_seed, progress, tell) as (model, tokenizer, generation):
            ends = configured_ends(generation, tokenizer)
            tell(*prompt_notes(evaluator.problems, evaluator.prompt_format, tokenizer, ends))
            return evaluator.evaluate(model, tokenizer, observers=[OutcomeCounter(partial(progress, "scoring"))])

    def tokenizers(self, own: PreTrainedTokenizerBase) -> dict[str, PreTrainedTokenizerBase]:
        """Return its own tokenizer and, for a merge, those of its parents, by their owners' names."""
        if isinstance(self.reference, str):
            return {self.reference: own}
        parents = self.reference.parents()
        return {"the merge": own} | {parent: load_tokenizer(parent, self.options.load) for parent in parents}

    def _compute(self, own: torch.dtype, shapes: Sequence[Sequence[int]], device: str) -> Compute:
        return Compute.choose(self.compute_dtype, own, shapes, device, self.backend, lambda: self.fits)


def score_each(
    candidates: Sequence[ParentCandidate],
    evaluator: Evaluator,
    random_seed: int,
    progress: Callable[[str, int, int], None],
    tell: Callable[..., None],
) -> tuple[Mapping[str, Report], Mapping[str, Exception]]:
    """Score candidates one after the other; return the reports, and the errors of those that cannot be scored, by name.

    Args:
        candidates: the models.
        evaluator: scores them.
        random_seed: the seed of merges that draw random numbers.
        progress: called with (phase, done, total).
        tell: called with notes for the user, and with each score as soon as it is known.
    """
    reports: dict[str, Report] = {}
    failed: dict[str, Exception] = {}
    for candidate in candidates:
        name = candidate.name

        def named(phase: str, done: int, total: int, name: str = name) -> None:
            progress(f"{phase} {name}", done, total)

        try:
            reports[name] = candidate.scored(evaluator, random_seed, named, partial(_tell_of, tell, name))
        except (EvaluationError, MergingError) as error:
            if not is_of_the_candidate(error):
                raise
            failed[name] = error
            tell(f"{name}: cannot be scored: {error}")
        else:
            tell(f"{name}: pass@1 {reports[name].pass_at_1:.1%}, {reports[name].seconds:.1f} s")
        release_unused()
    return reports, failed


def _tell_of(tell: Callable[..., None], name: str, *notes: str) -> None:
    tell(*(f"{name}: {note}" for note in notes))


def _spread(reference: str | Recipe, options: MergeOptions) -> str | Recipe:
    """Return a model that is spread over devices as a merge of itself alone, since a device map places only merges."""
    return Recipe.single(reference) if options.device_map and isinstance(reference, str) else reference
