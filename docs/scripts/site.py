"""What mkdocs does besides: pages link files outside docs/ as GitHub shows them, and the site has copies of these.

`../configs/quickstart.yaml` in a page of docs/ is `configs/quickstart.yaml` of the site; so are CONTRIBUTING.md and
CHANGELOG.md, whose own links to `docs/` lead to the site's pages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link."""
    texts = {PurePosixPath("docs", file.src_uri): file.content_string for file in files.documentation_pages()}
    texts |= {PurePosixPath(name): (ROOT / name).read_text(encoding="utf-8") for name in _PAGES}
    linked = {_target(page, link) for page, text in texts.items() for link in _LINK.findall(text)}
    outside = {path for path in linked if not path.startswith("docs/") and (ROOT / path).is_file()}
    for path in sorted({*outside, *_PAGES}):
        files.append(File.generated(config, path, content=(ROOT / path).read_bytes().decode()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links between docs/ and the files outside it to where the site has them."""
    is_ours = page.file.src_uri in _PAGES
    own = PurePosixPath(page.file.src_uri) if is_ours else PurePosixPath("docs", page.file.src_uri)

    def there(link: re.Match[str]) -> str:
        target = _target(own, link[1]).removeprefix("docs/")
        return os.path.relpath(target, PurePosixPath(page.file.src_uri).parent)

    return _LINK.sub(there, markdown)


def _target(page: PurePosixPath, link: str) -> str:
    """Return where a link of a page leads to, from the project's root."""
    return os.path.normpath(page.parent / link)
