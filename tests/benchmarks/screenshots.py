"""Pictures of the report for the documentation: docs/images/report-*.png.

    merge-search run configs/quickstart.yaml --out results/pictures     # with stop: {proven: false}, for all 40 trials
    python -m tests.benchmarks.screenshots results/pictures

needs Chromium, as the tests of the report do.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from search.cli import main as merge_search

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SECTIONS = ("history", "layers", "matrix")


def main() -> None:
    """Write a picture of each section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        merge_search(["report", str(results), "--to", str(file)], standalone_mode=False)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        page.goto(file.as_uri())
        page.wait_for_function("!document.querySelector('.figure:not(.drawn)')")
        for key in SECTIONS:
            page.locator(f"section#{key}").screenshot(path=IMAGES / f"report-{key}.png")


if __name__ == "__main__":
    main()
