"""vLLM itself: one engine, whose weights are replaced in place and whose steps are taken by hand.

Guarantees: `load` replaces all weights or raises, and drops the prefixes cached from earlier weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import vllm
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.inputs import tokens_input
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.sampling_params import RequestOutputKind

from evaluation.generation.backend_protocol import Request
from evaluation.generation.vllm_engine.engine_settings import EngineSettings, llm_arguments
from evaluation.generation.vllm_engine.messages import Completed, Generate, Likelihood
from evaluation.generation.vllm_engine.proposer import DraftProposer
from evaluation.generation.vllm_engine.weight_stream import SharedMemory, WeightPiece, WeightReader


class Engine:
    """A running vLLM.

    Args:
        settings: the engine's settings.
        memory: the shared memory that brings the candidates' weights.
    """

    def __init__(self, settings: EngineSettings, memory: SharedMemory) -> None:
        arguments: dict[str, Any] = llm_arguments(settings, f"{DraftProposer.__module__}.{DraftProposer.__name__}")
        self._llm = vllm.LLM(**arguments)
        self._weights = WeightReader(memory)  # not earlier: vLLM first chooses the device and measures its free memory
        self._engine = self._llm.llm_engine
        self._drafting: DraftProposer | None = None
        if settings.draft_tokens:
            runner = self._engine.model_executor.driver_worker.worker.model_runner
            self._drafting = runner.drafter
            self._drafting.begin(runner.input_batch, settings)

    def load(self, chunks: Iterable[Sequence[WeightPiece]], taken: Callable[[], None]) -> None:
        """Replace all weights.

        An error of the chunks is passed on; the weights are then undefined until the next call.

        Args:
            chunks: the pieces of weights in the shared memory, in order.
            taken: called when all of a chunk is read.

        Raises:
            ValueError: some weights are missing; the message names them.
            RuntimeError: prefixes computed from earlier weights would stay cached.
        """
        load = partial(_load, weights=self._weights.tensors(chunks, taken), config=self._engine.vllm_config)
        self._llm.apply_model(load)
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps cached prefixes of earlier weights, since requests are running")

    def generate(self, order: Generate, is_cancelled: Callable[[], bool]) -> Iterator[Completed | Likelihood]:
        """Yield likelihoods and completions as they become ready; before each step, check whether to stop."""
        work = _Work(order.requests)
        for index, request in enumerate(order.requests):
            added = self._add(str(index), request.prompt, _parameters(request, order.ends))
            if self._drafting and order.guess:
                self._drafting.know(added, request)
            if request.reference:
                self._add(f"{index} reference", [*request.prompt, *request.reference], _LIKELIHOOD)
        try:
            while self._engine.has_unfinished_requests() and not is_cancelled():
                for output in self._engine.step():
                    yield from work.finish(output)
        finally:
            self._engine.abort_request(list(work.open))
            if self._drafting:
                self._drafting.forget()

    def _add(self, name: str, prompt: Sequence[int], parameters: vllm.SamplingParams) -> str:
        added: str = self._engine.add_request(name, tokens_input(list(prompt)), parameters)
        return added


class _Work:
    """The open requests, and the results of partly finished ones."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        names = (name for index, request in enumerate(requests) for name in _names(index, request))
        self.open = dict.fromkeys(names)
        self._tokens: dict[int, tuple[int, ...]] = {}

    def finish(self, output: Any) -> Iterator[Completed | Likelihood]:
        """Accept an output of vLLM; yield what it completes."""
        index = int(output.request_id.partition(" ")[0])
        request = self._requests[index]
        del self.open[output.request_id]
        if output.request_id == str(index):
            self._tokens[index] = tuple(output.outputs[0].token_ids)
        else:
            yield Likelihood(index, _mean_log_likelihood(output.prompt_logprobs, request))
        if not any(name in self.open for name in _names(index, request)):
            yield Completed(index, self._tokens.pop(index))


_LIKELIHOOD = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, ignore_eos=True, detokenize=False)


def _parameters(request: Request, ends: Sequence[int]) -> vllm.SamplingParams:
    draw = request.draw
    return vllm.SamplingParams(
        temperature=draw.temperature if draw else 0.0,
        top_p=draw.top_p if draw else 1.0,
        seed=draw.seed if draw else None,
        max_tokens=request.max_new_tokens,
        stop=list(request.stops),
        stop_token_ids=list(ends),
        ignore_eos=True,
        detokenize=bool(request.stops),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _names(index: int, request: Request) -> list[str]:
    return [str(index), f"{index} reference"] if request.reference else [str(index)]


def _mean_log_likelihood(of_prompt: Sequence[dict[int, Any]], request: Request) -> float:
    first = len(request.prompt)
    found = [of_prompt[first + place][token].logprob for place, token in enumerate(request.reference)]
    return float(sum(found) / len(found))


def _load(model: Any, weights: Iterator[tuple[str, Any]], config: VllmConfig) -> None:
    """Load weights into vLLM's model, layer by layer and in place, so that compiled code and CUDA graphs stay valid."""
    wanted = {name for name, _ in model.named_parameters()}
    with set_current_vllm_config(config):  # as in vLLM's own `reload_weights`, since some layers read it
        initialize_layerwise_reload(model)
        try:
            loaded = model.load_weights(weights)
        finally:  # otherwise a half-loaded model could not be loaded again
            finalize_layerwise_reload(model, config.model_config)
    for _ in weights:  # read the weights that vLLM does not need
        pass
    # vLLM 0.32 packs weights for a CPU; a head tied to the embedding would keep the packed weights of the last model.
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)
    if missing := sorted(wanted - loaded):
        raise ValueError(f"{type(model).__name__} of vLLM lacks {', '.join(missing[:5])}")
