"""The engine's process, as seen by the process that started it.

Guarantees: it ends with `close`, or with this process; Ctrl-C does not reach it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from evaluation.errors import EvaluationError
from evaluation.generation.backend_protocol import Request
from evaluation.generation.vllm_engine.engine_settings import EngineSettings
from evaluation.generation.vllm_engine.messages import (
    Answer,
    Cancel,
    Chunk,
    Completed,
    Done,
    Generate,
    Likelihood,
    Load,
    Loaded,
    Order,
    StartEngine,
)
from evaluation.generation.vllm_engine.weight_stream import WeightWriter

_WORK = {
    "cpu": "this takes half a minute or so",
    "cuda": "it compiles the model and captures CUDA graphs, which takes a minute or two the first time",
}
_ROOT = Path(__file__).parents[3]
_PATIENCE_SECONDS = 5.0
_LOG_LINES = 15
# A start that takes longer than this is reported.
_TOLD_SECONDS = 2.0


class EngineProcess:
    """A running engine, ready for weights.

    Args:
        settings: the engine's settings; the folder is filled in here.
        config: the config of the models that it will run.
        tokenizer: their tokenizer.
        device: the device that they are on.
        tell: called if the start is slow, and again when the engine has started.

    Raises:
        EvaluationError: vLLM cannot be started with this model.
    """

    def __init__(
        self,
        settings: EngineSettings,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="merge-search-vllm-")
        self._log = Path(self._folder.name) / "engine.log"
        self._weights = WeightWriter(device)
        self._connection, theirs = Pipe()
        config.save_pretrained(self._folder.name)
        tokenizer.save_pretrained(self._folder.name)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __package__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), self._weights.shared.file),
                env=os.environ | _environment(device),
                start_new_session=True,
            )
        theirs.close()
        try:
            self._order(StartEngine(replace(settings, folder=self._folder.name), self._weights.shared))
            self._started(settings, tell)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the engine's weights by tensors, which may be made lazily.

        An error of the iterator is passed on; the weights are then undefined until the next call.

        Args:
            tensors: (name in a checkpoint, tensor); each is copied before the next one is taken.

        Raises:
            EvaluationError: the engine failed.
        """
        self._order(Load())
        unread = 0
        chunks = self._weights.chunks(tensors)
        while True:
            try:
                pieces = next(chunks, None)
            except BaseException:
                self._order(Cancel())
                for _ in range(unread + 1):
                    self._done()
                raise
            if pieces is None:
                break
            self._order(Chunk(pieces))
            unread += 1
            if unread == 2:
                self._done()
                unread = 1
        self._order(Loaded())
        for _ in range(unread + 1):
            self._done()

    def generate(
        self, requests: Sequence[Request], ends: Sequence[int], guess: bool
    ) -> Generator[Completed | Likelihood]:
        """Yield likelihoods and completions, in any order; close the iterator to stop early.

        Raises:
            EvaluationError: the engine failed.
        """
        self._order(Generate(requests, ends, guess))
        try:
            while not isinstance(answer := self._answer(), Done):
                yield answer
        except GeneratorExit:
            self._order(Cancel())
            self._done()
            raise

    def close(self) -> None:
        """End the process and release its resources."""
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._weights.close()
        self._folder.cleanup()

    def _started(self, settings: EngineSettings, tell: Callable[[str], None]) -> None:
        began = time.monotonic()
        is_long = not self._connection.poll(_TOLD_SECONDS)
        if is_long:
            tell(f"vLLM starts: {_WORK[settings.kind]}")
        try:
            self._done()
        except EvaluationError as error:
            cache = f"{settings.cache_bytes / 1e9:.2f} GB for keys and values of {settings.length} tokens a text"
            raise EvaluationError(f"vLLM does not start with {cache}: {error}") from None
        if is_long:
            tell(f"vLLM has started in {time.monotonic() - began:.0f} s")

    def _order(self, order: Order) -> None:
        with contextlib.suppress(BrokenPipeError):  # the next answer says why
            self._connection.send(order)

    def _done(self) -> None:
        while not isinstance(self._answer(), Done):
            pass

    def _answer(self) -> Completed | Likelihood | Done:
        try:
            answer: Answer = self._connection.recv()
        except (EOFError, ConnectionError):
            answer = EvaluationError(f"its process ended with {self._process.wait()}")
        if isinstance(answer, EvaluationError):
            raise EvaluationError(f"vLLM: {answer}\n{self._last_words()}")
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])


def _environment(device: torch.device) -> dict[str, str]:
    """Return the environment variables that vLLM needs here."""
    found = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # it runs in the engine's own process
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return found | {"CUDA_VISIBLE_DEVICES": visible.split(",")[index] if visible else str(index)}
    libraries = [Path(sysconfig.get_path("data")) / "lib" / "libiomp5.so"]
    preloaded = [str(library) for library in libraries if library.exists()]
    return found | {"LD_PRELOAD": ":".join([*preloaded, *filter(None, [os.environ.get("LD_PRELOAD")])])}
