"""vLLM writes what transformers writes, with weights that are replaced while it runs."""

from __future__ import annotations

import copy
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import Evaluator, Sampling, load_problems
from evaluation.errors import EvaluationError
from evaluation.generation.backend_protocol import Generated, Request, StreamedWeights
from evaluation.generation.room import Room
from evaluation.generation.text import text_after
from evaluation.generation.vllm_backend import VllmBackend
from evaluation.generation.vllm_engine.engine_settings import capture_sizes, llm_arguments, settings_for
from merging import Merger, NonFiniteTensor, ParentSet, Recipe, load_model, load_tokenizer
from search import SearchConfig, run_search
from tests.evaluation.test_engine_settings import card, demand
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model

PROMPTS = ["def f(x):", "a", "import os\nimport sys\n\n\ndef main() -> None:\n    ", "x = [1, 2", "# " + "long " * 20]
NEW_TOKENS = 40
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
# vLLM's attention on a CPU wants heads of 32 numbers or more.
HIDDEN = 256


class Family:
    """A tiny model that is merged again and again, in a fashion: one live model with the weights of several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folders = [self._saved(folder / str(seed), seed) for seed in range(3)]
        self.tokenizer = load_tokenizer(folders[0])
        self.model = load_model(folders[0])
        self.members = [load_model(member).state_dict() for member in folders]
        self.prompts = [self.tokenizer.encode(prompt) for prompt in PROMPTS]

    def become(self, member: int) -> None:
        """Write a member's weights into the live model."""
        self.model.load_state_dict(self.members[member])

    def written(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Return what transformers writes."""
        out: Any = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        return tuple(out[0, len(prompt) :].tolist())

    def _saved(self, folder: Path, seed: int) -> str:
        # 300 rows are not a multiple of the 64 that vLLM pads a vocabulary to; the head is tied to them.
        tiny = TinyModel(
            seed=seed,
            change=0.5,
            architecture="qwen2",
            dtype="float32",
            tied=True,
            hidden=HIDDEN,
            vocabulary=TinyVocabulary(rows=300),
        )
        return save_tiny_model(folder, tiny)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def backend() -> Iterator[VllmBackend]:
    with closing(VllmBackend()) as backend:
        yield backend


def generated(backend: VllmBackend, family: Family, requests: Sequence[Request], **options: Any) -> list[Generated]:
    """Return what vLLM writes, in the requests' order."""
    found = dict(backend.generate(family.model, family.tokenizer, requests, **options))
    return [found[index] for index in range(len(requests))]


def asked(family: Family, **options: Any) -> list[Request]:
    return [Request(prompt, max_new_tokens=NEW_TOKENS, **options) for prompt in family.prompts]


def test_a_backend_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.generation.backends.find_spec", lambda _: None)
    with pytest.raises(EvaluationError, match=r"pip install 'merge-search\[vllm\]'"):
        Evaluator(load_problems("humaneval"), allow_code_execution=True, backend="vllm")


@pytest.mark.vllm
def test_in_float32_the_tokens_are_those_of_transformers_for_each_weights_that_are_put_in(
    backend: VllmBackend, family: Family
) -> None:
    written = []
    for member in (0, 1, 2, 0):
        family.become(member)
        found = generated(backend, family, asked(family))
        assert [one.tokens for one in found] == [family.written(prompt) for prompt in family.prompts]
        assert [one.text for one in found] == [
            text_after(prompt, one.tokens, family.tokenizer) for prompt, one in zip(family.prompts, found, strict=True)
        ]
        written.append([one.tokens for one in found])
    assert written[0] == written[3]
    assert written[0] != written[1] != written[2]


@pytest.mark.vllm
def test_one_engine_serves_all_candidates(backend: VllmBackend, family: Family) -> None:
    family.become(0)
    generated(backend, family, asked(family))
    process = backend.engine(family.model, family.tokenizer, asked(family)).pid
    family.become(1)
    generated(backend, family, asked(family))
    assert backend.engine(family.model, family.tokenizer, asked(family)).pid == process


@pytest.mark.vllm
@pytest.mark.parametrize("plain", [False, True])
def test_drafts_change_nothing(backend: VllmBackend, family: Family, plain: bool) -> None:
    family.become(0)
    right = [family.written(prompt) for prompt in family.prompts]
    # Right throughout, right up to a token, wrong, longer than anything is written, none at all.
    drafts = [[right[0]], [(*right[1][:20], 3, *right[1][20:])], [(5,) * 30], [right[3] * 3], []]
    requests = [
        Request(prompt, max_new_tokens=NEW_TOKENS, drafts=known)
        for prompt, known in zip(family.prompts, drafts, strict=True)
    ]
    assert [one.tokens for one in generated(backend, family, requests, plain=plain)] == right


@pytest.mark.vllm
@pytest.mark.parametrize("drafted", [False, True])
def test_writing_ends_at_a_stop_text_also_within_a_draft(backend: VllmBackend, family: Family, drafted: bool) -> None:
    family.become(0)
    whole = generated(backend, family, asked(family))
    stop = next(text for text in (one.text[8:10] for one in whole) if "�" not in text)
    requests = [
        Request(prompt, [stop], NEW_TOKENS, drafts=[one.tokens] if drafted else [])
        for prompt, one in zip(family.prompts, whole, strict=True)
    ]
    stopped = generated(backend, family, requests)
    for one, other in zip(stopped, whole, strict=True):
        end = other.text.find(stop)
        assert one.text == (other.text[: end + len(stop)] if end >= 0 else other.text)
        assert one.tokens == other.tokens[: len(one.tokens)]
    assert min(len(one.tokens) for one in stopped) < NEW_TOKENS


@pytest.mark.vllm
def test_samples_are_drawn_again_from_the_same_seed(backend: VllmBackend, family: Family) -> None:
    family.become(0)
    sampling = Sampling(samples=2, temperature=1.0, seed=4)
    requests = [
        Request(prompt, max_new_tokens=NEW_TOKENS, draw=sampling.draw(str(index), sample))
        for index, prompt in enumerate(family.prompts)
        for sample in range(2)
    ]
    first, again = ([one.tokens for one in generated(backend, family, requests, plain=True)] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)


@pytest.mark.vllm
def test_the_likelihood_of_a_reference_is_that_of_transformers(backend: VllmBackend, family: Family) -> None:
    family.become(1)
    reference = (100, 5, 17, 200, 8)
    requests = [*asked(family, reference=reference), *asked(family)]
    found = generated(backend, family, requests)
    for prompt, one, plain in zip(family.prompts, found, found[len(PROMPTS) :], strict=False):
        logits = family.model(torch.tensor([[*prompt, *reference]])).logits[0, len(prompt) - 1 : -1]
        scores = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(reference)[:, None])
        assert one.log_likelihood == pytest.approx(scores.mean().item(), abs=1e-4)
        assert (plain.log_likelihood, plain.tokens) == (None, one.tokens)


@pytest.mark.vllm
def test_likelihoods_are_told_before_much_is_written_and_may_end_it(backend: VllmBackend, family: Family) -> None:
    family.become(1)
    reference = (100, 5, 17)
    requests = [Request(prompt, max_new_tokens=900, reference=reference) for prompt in family.prompts]
    told: dict[int, float] = {}

    def hear(index: int, log_likelihood: float) -> None:
        told[index] = log_likelihood
        if len(told) == len(requests):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        list(backend.generate(family.model, family.tokenizer, requests, hear))
    found = generated(backend, family, asked(family, reference=reference))
    for index, one in enumerate(found):
        assert told[index] == pytest.approx(one.log_likelihood, abs=1e-4)


@pytest.mark.vllm
def test_who_stops_early_can_ask_again(backend: VllmBackend, family: Family) -> None:
    family.become(0)
    long = [Request(prompt, max_new_tokens=900) for prompt in family.prompts]
    stream = backend.generate(family.model, family.tokenizer, [Request(family.prompts[0], (), 3), *long])
    index, first = next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert (index, len(first.tokens)) == (0, 3)
    assert generated(backend, family, asked(family))[0].tokens == family.written(family.prompts[0])


@pytest.mark.vllm
def test_a_text_ends_where_the_context_does(backend: VllmBackend, family: Family) -> None:
    family.become(0)
    context = family.model.config.max_position_embeddings
    found = generated(backend, family, [Request([5] * length) for length in (context - 3, context)])
    assert [len(one.tokens) for one in found] == [3, 0]


@pytest.mark.vllm
def test_a_candidate_whose_weights_fail_on_the_way_leaves_the_engine_for_the_next(
    backend: VllmBackend, family: Family
) -> None:
    family.become(0)
    engine = backend.engine(family.model, family.tokenizer, asked(family))

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from itertools.islice(family.members[1].items(), 7)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        engine.load(broken())
    found = generated(backend, family, asked(family))
    assert backend.engine(family.model, family.tokenizer, asked(family)).pid == engine.pid
    assert [one.tokens for one in found] == [family.written(prompt) for prompt in family.prompts]


@pytest.mark.vllm
def test_an_engine_as_on_a_gpu_writes_the_same_and_tells_that_it_starts(family: Family) -> None:
    """With 15 guesses at once, weights in pieces smaller than a tensor, and keys and values for few rows."""
    told: list[str] = []
    family.become(1)
    right = [family.written(prompt) for prompt in family.prompts]
    with closing(VllmBackend(draft_tokens=15, room=Room(engine_cache_bytes=1), tell=told.append)) as backend:
        requests = [request for written in right for request in asked(family, drafts=[written])]
        found = generated(backend, family, requests)
    assert [one.tokens for one in found] == right * len(right)
    assert [message.partition(" in ")[0] for message in told] == [
        "vLLM starts: this takes half a minute or so",
        "vLLM has started",
    ]


@pytest.mark.vllm
@pytest.mark.parametrize("model", ["Llama-3.1-8B"])
def test_vllm_takes_the_arguments_of_an_engine_on_a_gpu(family: Family, model: str) -> None:
    """vLLM's own checks of them, and its own sizes of CUDA graphs, as far as it makes them without a GPU."""
    from vllm.config import CompilationConfig
    from vllm.engine.arg_utils import EngineArgs

    family.model.config.save_pretrained(family.folder)
    settings = settings_for(demand(model), card(80), Room(), "float32", {})
    arguments = llm_arguments(replace(settings, folder=str(family.folder), length=1024), "some.Proposer")
    graphs = arguments.pop("compilation_config")
    assert isinstance(graphs, dict)
    EngineArgs(**arguments, skip_tokenizer_init=True)
    sizes = CompilationConfig(**graphs).cudagraph_capture_sizes
    assert sizes == list(capture_sizes(1024))


@pytest.mark.vllm
def test_what_vllm_says_is_in_the_error_when_it_does_not_start(family: Family) -> None:
    with closing(VllmBackend()) as backend:
        config = copy.deepcopy(family.model.config)
        family.model.config.num_attention_heads = 7
        try:
            with pytest.raises(EvaluationError, match=r"vLLM does not start with 0\.\d\d GB for keys and values of"):
                generated(backend, family, asked(family))
        finally:
            family.model.config = config


@pytest.mark.vllm
def test_a_merge_that_is_streamed_writes_what_its_live_model_does(backend: VllmBackend, family: Family) -> None:
    models = "".join(f"- {{model: {family.folder / seed}, parameters: {{weight: {seed}}}}}\n" for seed in ("1", "2"))
    recipe = Recipe.parse(f"merge_method: linear\nmodels:\n{models}dtype: float32\n")
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents)
        weights = StreamedWeights(parents.device, partial(merger.stream, recipe))
        requests = asked(family)
        found = dict(backend.generate(merger.skeleton(recipe), family.tokenizer, requests, weights=weights))
        family.model.load_state_dict(merger.apply(recipe).state_dict())
    assert [found[index].tokens for index in range(len(requests))] == [
        family.written(prompt) for prompt in family.prompts
    ]


@pytest.mark.vllm
def test_a_search_runs_on_it_without_a_live_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate turns out not to be finite while the engine reads it: it fails, and the next one does not."""
    monkeypatch.setattr(Merger, "apply", None)
    stream, calls = Merger.stream, itertools.count(1)

    def broken(merger: Merger, *given: Any) -> Iterator[tuple[str, torch.Tensor]]:
        is_fifth = next(calls) == 5  # after three parents and their average
        for index, each in enumerate(stream(merger, *given)):
            if is_fifth and index == 3:
                raise NonFiniteTensor(each[0], "ties")
            yield each

    monkeypatch.setattr(Merger, "stream", broken)
    text = (QUICKSTART.read_text(encoding="utf-8")).replace("evaluation:\n", "evaluation:\n  backend: vllm\n")
    config = SearchConfig.parse(text, folder=QUICKSTART.parent)
    board = run_search(config, tmp_path / "results", trials=2)
    found = {Path(row.name).name: row.record.search for row in board.rows}
    assert {name: each.state for name, each in found.items() if each.state != "complete"} == {"trial 0": "failed"}
    assert "NaN or Inf" in (found["trial 0"].error or "")
    assert len(found) == 6  # three parents, their average, two trials
    # Bits of 16 may fall another way in another engine, but a parent remains what it is.
    assert found["text"].score == pytest.approx(0.487, abs=0.03)


@pytest.mark.vllm
def test_the_engine_ends_with_the_process_that_started_it(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    family.model.save_pretrained(folder)
    family.tokenizer.save_pretrained(folder)
    program = (
        "import sys, time\n"
        "from evaluation.generation.backend_protocol import Request\n"
        "from evaluation.generation.vllm_backend import VllmBackend\n"
        "from merging import load_model, load_tokenizer\n"
        "model, tokenizer, backend = load_model(sys.argv[1]), load_tokenizer(sys.argv[1]), VllmBackend()\n"
        "requests = [Request([5, 6, 7], (), 2), Request([5, 6, 7], (), 900)]\n"
        "stream = backend.generate(model, tokenizer, requests)\n"
        "print(next(stream), flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert starter.stdout is not None
        assert starter.stdout.readline()
        engine = _child_of(starter.pid)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.communicate()
    ended = time.monotonic() + 30
    while _is_alive(engine) and time.monotonic() < ended:
        time.sleep(0.1)
    assert not _is_alive(engine)


@pytest.mark.vllm
def test_a_dead_engine_is_an_error_and_the_next_candidate_gets_another(backend: VllmBackend, family: Family) -> None:
    family.become(0)
    long = [Request(prompt, max_new_tokens=900) for prompt in family.prompts]
    engine = backend.engine(family.model, family.tokenizer, long)
    stream = backend.generate(family.model, family.tokenizer, [Request([5], (), 2), *long], plain=True)
    next(stream)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EvaluationError, match="its process ended with -9"):
        list(stream)
    assert generated(backend, family, asked(family))[0].tokens == family.written(family.prompts[0])


def _child_of(process: int) -> int:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[0])


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
