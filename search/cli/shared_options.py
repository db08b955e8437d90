"""Options that several commands share, with the same names and meanings everywhere."""

from __future__ import annotations

from typing import get_args

import click

from evaluation import BACKENDS, ComputeDtype
from evaluation.problems import SOURCES
from search.callbacks.trackers import TRACKERS
from search.cli.completions import results_folders
from search.cli.given_values import GivenPath, GivenText

CONFIG = GivenPath("a config (a .yaml file)")
SOURCE = GivenText(SOURCES)
_DEVICE = GivenText("a device, as torch names it")
RESULTS = click.argument(
    "results", type=GivenPath("a results folder, such as results/quickstart"), shell_complete=results_folders
)
LOG_JSON = click.option(
    "--log-json", is_flag=True, help="Print a JSON object per event on stdout, and no leaderboard at the end."
)
QUIET = click.option("--quiet", "-q", is_flag=True, help="Show no progress, only the leaderboard at the end.")
BACKEND = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="transformers",
    show_default=True,
    help="What runs the models; vllm comes with pip install 'merge-search[vllm]'.",
)
COMPUTE_DTYPE = click.option(
    "--compute-dtype",
    type=click.Choice(get_args(ComputeDtype)),
    default="auto",
    show_default=True,
    help="What the model computes in: the dtype of its weights, or float32; auto: on a CPU the faster of the two.",
)
CONSENT = click.option(
    "--allow-code-execution", is_flag=True, help="Agree to execute the code that the models generate, in a sandbox."
)
OUT = click.option(
    "--out", type=GivenPath("a results folder"), help="Results folder; by default results/ plus the config's name."
)
AROUND = click.option(
    "--around",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="FRACTION",
    help="Take a recipe, or a config without ranges, and search around its numbers; 0.2 is ±20%.",
)
DEVICE = click.option(
    "--device",
    type=_DEVICE,
    default="auto",
    show_default=True,
    help="The device, as torch names it; auto: a GPU if there is one.",
)
DEVICE_OF_SEARCH = click.option(
    "--device",
    type=_DEVICE,
    help="The device of this worker, as torch names it (cuda:3), instead of the config's merging.device.",
)
DEVICE_MAP = click.option(
    "--device-map", type=click.Choice(["auto"]), help="Spread the model over all GPUs, instead of --device."
)
COMPATIBLE = click.option(
    "--mergekit-compatible",
    is_flag=True,
    help="Export methods that mergekit lacks in an equivalent form that it can read.",
)
# The switches of mergekit-yaml, by its names.
SHARD_SIZE = click.option(
    "--out-shard-size",
    "--max-shard-size",
    "max_shard_size",
    type=GivenText("a size, such as 5GB"),
    default="5GB",
    show_default=True,
    help="The largest size of a weight file; 5B means 5GB, as in mergekit.",
)
LOW_MEMORY = click.option(
    "--low-cpu-memory/--no-low-cpu-memory", help="Accepted as in mergekit; merges always run tensor by tensor."
)
LAZY_UNPICKLE = click.option(
    "--lazy-unpickle/--no-lazy-unpickle", help="Read torch pickles (pytorch_model.bin), without running code in them."
)
TRUST = click.option(
    "--trust-remote-code/--no-trust-remote-code",
    help="Execute Python code that comes with a model, tokenizer or config.",
)
CRIMES = click.option(
    "--allow-crimes/--no-allow-crimes", help="Merge models of different architectures if their tensors fit."
)
TOKENIZER = click.option(
    "--copy-tokenizer/--no-copy-tokenizer",
    default=True,
    show_default=True,
    help="Copy the base model's tokenizer if the recipe names none.",
)
CARD = click.option(
    "--write-model-card/--no-write-model-card", default=True, show_default=True, help="Write a README.md."
)
COMPILE = click.option(
    "--compile/--no-compile",
    default=None,
    help="Merge with compiled kernels; by default if that saves time. The result has the same bits.",
)
TRACK = click.option(
    "--track",
    type=click.Choice(list(TRACKERS)),
    multiple=True,
    help="Also keep it in MLflow or Weights & Biases; pip install 'merge-search[mlflow]' or [wandb]. May be repeated.",
)
PROBLEMS = click.option(
    "--problems",
    type=SOURCE,
    multiple=True,
    default=["humaneval"],
    show_default=True,
    help=f"{SOURCES}; repeat the option to score several sets together.",
)
SEED = click.option(
    "--random-seed", default=0, show_default=True, help="Seed for methods and samples that draw random numbers."
)
