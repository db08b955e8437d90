"""How long the report of a large search takes to write, how large it is, and how soon Chromium paints it.

    python -m tests.benchmarks.report [--trials 500] [--runs 3]

Seconds are the median of some runs. Writing is the command that a person types, as a process of its own. A page is
opened from the disk in a new Chromium each time. "Figure" is when the first figure stands, after scrolling to it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.machine import describe_machine
from tests.search.views.report.ugly import CASES, Search, make

CHROMIUM = "/usr/bin/chromium"
COMMAND = [str(Path(sys.executable).with_name("merge-search")), "report"]
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def written(results: Path, file: Path) -> float:
    """Write the report and return the seconds."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, str(results), "--to", str(file)], check=True, capture_output=True)
    return time.perf_counter() - started


def painted(file: Path) -> tuple[float, float]:
    """Return the seconds until Chromium has painted text, and until it has drawn a figure after scrolling there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_function(PAINT)
        text = page.evaluate(PAINT) / 1000
        started = time.perf_counter()
        page.locator("#history").scroll_into_view_if_needed()
        page.locator("[data-figure=history].drawn").wait_for()
        figure = time.perf_counter() - started
        browser.close()
    return text, figure


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    version = subprocess.run([CHROMIUM, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{describe_machine()}, {version}\n")
    print("| search | written [s] | size [MB] | text painted [s] | figure drawn [s] |")
    print("|---|---|---|---|---|")
    searches = {
        f"{given.trials} trials, 164 problems": Search(trials=given.trials, problems=164),
        "60 trials, 2,000 problems": CASES["two_thousand_problems"],
    }
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, search) in enumerate(searches.items()):
            results, file = make(Path(folder) / str(place), search), Path(folder) / f"{place}.html"
            seconds = median(written(results, file) for _ in range(given.runs))
            paints = [painted(file) for _ in range(given.runs)]
            text, figure = (median(each[kind] for each in paints) for kind in (0, 1))
            print(
                f"| {name} | {seconds:.1f} | {file.stat().st_size / 1e6:.1f} | {text:.2f} | {figure:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
