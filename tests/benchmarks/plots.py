"""The plots of docs/concepts, drawn by the project's own functions.

    python -m tests.benchmarks.plots

writes docs/images/*.svg. Two of them, those of the ascent and of the race, run searches of the quickstart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import mean
from typing import TypeAlias

import numpy as np
import torch
from scipy.stats import binom

from evaluation import DraftStore, Evaluator
from merging import Merger, ParentSet, load_model, load_tokenizer
from merging.recipes.settings import knots_at
from search import SearchConfig, run_search
from search.ascent.loss import losses
from search.board.power import least_gain
from search.space.sections import StopSection
from search.study.looks import Looks
from search.study.record import Parameters
from tests.benchmarks.race import races, searched, without_ascent
from tests.merging.operands import run

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
Points: TypeAlias = Sequence[tuple[float, float]]
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a0529a", "#b8860b", "#56a0d3")
_IN_THE_DARK = ("#6cb6ff", "#ff9a57", "#4fd1a5", "#e09ad6", "#e8c14a", "#a9d6f5")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 720, 320, 62, 18, 52, 178


@dataclass(frozen=True)
class Chart:
    """Lines over two axes, each with ticks and their labels; `dots` are of the lines whose points are marked."""

    x: str
    y: str
    lines: Mapping[str, Points]
    x_ticks: Mapping[float, str]
    y_ticks: Mapping[float, str]
    dots: frozenset[str] = field(default_factory=frozenset)

    def svg(self) -> str:
        """Return the chart as SVG, which follows the reader's light or dark scheme."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
                f'aria-label="{escape(self.y)} against {escape(self.x)}">',
                f"<style>{_style()}</style>",
                f'<rect class="back" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>',
                *self._axes(),
                *(part for number, name in enumerate(self.lines) for part in self._line(number, name)),
                "</svg>\n",
            ]
        )

    def _axes(self) -> Iterator[str]:
        right, bottom = _WIDTH - _LEGEND, _HEIGHT - _BOTTOM
        for tick, label in self.y_ticks.items():
            height = self._place(0, tick)[1]
            yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{height:.1f}" y2="{height:.1f}"/>'
            yield f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        for tick, label in self.x_ticks.items():
            place = self._place(tick, 0)[0]
            yield f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>'
        middle = (_TOP + bottom) / 2
        yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(self.x)}</text>'
        turned = f'transform="rotate(-90 16 {middle})" x="16" y="{middle}"'
        yield f'<text {turned} text-anchor="middle">{escape(self.y)}</text>'

    def _line(self, number: int, name: str) -> Iterator[str]:
        places = [self._place(x, y) for x, y in self.lines[name]]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline class="line c{number}" points="{points}"/>'
        if name in self.dots:
            yield from (f'<circle class="dot c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        left, height = _WIDTH - _LEGEND + 16, _TOP + 14 + 22 * number
        yield f'<line class="line c{number}" x1="{left}" x2="{left + 18}" y1="{height - 4}" y2="{height - 4}"/>'
        yield f'<text x="{left + 25}" y="{height}">{escape(name)}</text>'

    def _place(self, x: float, y: float) -> tuple[float, float]:
        (x_low, x_high), (y_low, y_high) = ((min(ticks), max(ticks)) for ticks in (self.x_ticks, self.y_ticks))
        width, height = _WIDTH - _LEGEND - _LEFT, _HEIGHT - _BOTTOM - _TOP
        return _LEFT + width * (x - x_low) / (x_high - x_low), _TOP + height * (1 - (y - y_low) / (y_high - y_low))


def _style() -> str:
    shapes = (
        "text{font:13px system-ui,sans-serif;fill:#333}.back{fill:#fff;stroke:#ddd}.grid{stroke:#e4e4e4}"
        ".line{fill:none;stroke-width:2.2}"
    )
    dark = "text{fill:#ccc}.back{fill:#1e2129;stroke:#3a3f4b}.grid{stroke:#353a45}"
    return f"{shapes}{_coloured(_COLOURS)}@media(prefers-color-scheme:dark){{{dark}{_coloured(_IN_THE_DARK)}}}"


def _coloured(colours: Sequence[str]) -> str:
    return "".join(f".line.c{n}{{stroke:{c}}}.dot.c{n}{{fill:{c}}}" for n, c in enumerate(colours))


def densities() -> Chart:
    """Which part of a task vector each method keeps, by the rank of the magnitude."""
    bins, elements, density = 60, 1 << 20, 0.3
    delta = torch.randn(1 << 10, elements >> 10, generator=torch.Generator().manual_seed(0))
    order = delta.flatten().abs().argsort()
    lines = {}
    for name, other in {
        "ties": {},
        "dare_linear": {},
        "della_linear": {"epsilon": 0.2},
        "breadcrumbs": {"gamma": 0.05},
    }.items():
        per_input = {key: (value,) for key, value in {"weight": 1.0, "density": density, **other}.items()}
        merged = run(name, torch.zeros_like(delta), [delta], {"rescale": False, "normalize": False}, per_input)
        kept = (merged.flatten()[order] != 0).float()
        lines[name] = [((n + 0.5) / bins, float(part.mean())) for n, part in enumerate(kept.tensor_split(bins))]
    return Chart("elements by magnitude, smallest to largest", "kept", lines, _percent(5), _percent(5))


def gradients(layers: int = 24) -> Chart:
    """The value of each layer under gradients of several knots."""
    each = tuple(round(0.5 + 0.4 * float(np.sin(1.1 * n) * np.cos(0.23 * n)), 2) for n in range(layers))
    knots = {
        "[0.2, 0.9]": (0.2, 0.9),
        "[1.0, 0.7, 0.1]": (1.0, 0.7, 0.1),
        "[0.0, 0.3, 0.7, 1.0]": (0.0, 0.3, 0.7, 1.0),
        "one per layer": each,
    }
    lines = {name: [(n, _value(values, n / (layers - 1))) for n in range(layers)] for name, values in knots.items()}
    ticks = {float(n): str(n) for n in (0, 6, 12, 18, 23)}
    return Chart("layer", "value", lines, ticks, {n / 4: f"{n / 4:g}" for n in range(5)}, frozenset(lines))


def _value(values: tuple[float, ...], t: float) -> float:
    knots = knots_at(values, "", t)
    assert knots is not None
    return float(knots.value(lambda value: value))


def ascent() -> Chart:
    """Loss and score from the first proposal of an ascent on the quickstart to its last, and beyond."""
    config = SearchConfig.load(ROOT / "configs" / "quickstart.yaml")
    with tempfile.TemporaryDirectory() as folder:
        board = run_search(config.updated("search", stop=StopSection(proven=False)), folder, trials=4)
    trials = {row.record.number: row.record.parameters for row in board.rows if row.record.kind == "trial"}
    places = [n / 10 for n in range(16)]
    found = list(_along(config, trials[0], trials[3], places))
    lines = {
        "problems solved": [(at, score) for at, (score, _) in zip(places, found, strict=True)],
        "mean loss": [(at, loss) for at, (_, loss) in zip(places, found, strict=True)],
    }
    ticks = {0.0: "first proposal", 1.0: "fourth", 1.5: "beyond"}
    return Chart("on the line through two proposals", "share, or loss", lines, ticks, _percent(5), frozenset(lines))


def _along(
    config: SearchConfig, start: Parameters, end: Parameters, places: Sequence[float]
) -> Iterator[tuple[float, float]]:
    """Yield the score and the mean loss of solutions of the merge at each place on the line through two points."""
    problems, recipe = config.evaluation.load_problems(), config.space.recipe_at(start)
    tokenizer, drafts = load_tokenizer(recipe.parents()[0]), DraftStore()
    ranges = config.space.distributions()
    with (
        ParentSet.open(recipe) as parents,
        Evaluator(problems, allow_code_execution=True, max_new_tokens=config.evaluation.max_new_tokens) as evaluator,
    ):
        for parent in recipe.parents():
            evaluator.evaluate(load_model(parent), tokenizer, drafts=drafts, parent=True)
        solutions, merger = evaluator.solutions(tokenizer, drafts, problems), Merger(parents)
        for at in places:
            point = {name: (1 - at) * start[name] + at * end[name] for name in start}
            inside = {name: min(max(value, ranges[name].low), ranges[name].high) for name, value in point.items()}
            model = merger.apply(config.space.recipe_at(inside))
            score = evaluator.evaluate(model, tokenizer).pass_at_1
            with torch.inference_mode():
                yield score, mean(losses(model, solutions))


def race() -> Chart:
    """How many trials of a sampler a race would still have after so many problems."""
    trials, rates, problems = searched(without_ascent("tpe", 60))
    lines = {}
    for block in (10, 30, 75):
        read = [len(each.order) if each.is_out else len(problems) for each in races(rates, trials, block)]
        places = range(0, len(problems), block)
        lines[f"blocks of {block}"] = [(at, mean(each > at for each in read)) for at in places]
    return Chart("problems read", "trials still in the race", lines, _counts(150, 30), _percent(5), frozenset(lines))


def optimism() -> Chart:
    """How much the best of many equal merges seems to gain on the problems that chose it."""
    lines = {
        f"{problems} problems": [
            (np.log10(trials), _optimism(problems, trials)) for trials in (1, 2, 5, 10, 20, 50, 100, 200, 500)
        ]
        for problems in (82, 150, 271, 500)
    }
    ticks = {0.0: "1", 1.0: "10", 2.0: "100", np.log10(500): "500"}
    return Chart(
        "trials", "seeming gain, in points", lines, ticks, {n / 100: str(n) for n in range(0, 21, 5)}, frozenset(lines)
    )


def _optimism(problems: int, trials: int, contested: float = 0.6) -> float:
    """Return the mean gain of the best of equal models, each of which solves a contested problem or not by a toss."""
    tossed = round(contested * problems)
    largest = float((1 - binom.cdf(np.arange(tossed), tossed, 0.5) ** trials).sum())
    return (largest - tossed / 2) / problems


def power() -> Chart:
    """What gain a search proves in 8 of 10 cases, by the size of its report split."""
    level = Looks(planned=500).at_end(500) / 3  # of the last look, for each of three finalists
    sizes = (20, 30, 41, 60, 82, 120, 150, 200, 271, 400, 600, 1000)
    lines = {
        f"differ on {discordance:.0%}": [
            (np.log10(size), gain)
            for size in sizes
            if (gain := least_gain(size, discordance, level)) is not None and gain <= 0.5
        ]
        for discordance in (0.5, 0.3, 0.2, 0.1)
    }
    ticks = {np.log10(size): str(size) for size in (20, 41, 82, 150, 271, 500, 1000)}
    return Chart(
        "problems on the report split",
        "gain, in points",
        lines,
        ticks,
        {n / 100: str(n) for n in range(0, 51, 10)},
        frozenset(lines),
    )


def _counts(end: int, step: int) -> dict[float, str]:
    return {float(n): str(n) for n in range(0, end + 1, step)}


def _percent(steps: int) -> dict[float, str]:
    return {n / steps: f"{100 * n / steps:g}%" for n in range(steps + 1)}


def main() -> None:
    """Write the plots."""
    for draw in (densities, gradients, optimism, power, ascent, race):
        (IMAGES / f"{draw.__name__}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
