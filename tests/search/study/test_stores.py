"""A file beside the local store's is all that another kind of store needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from search.study.local_store import LocalStore
from search.study.stores import kind_of, kinds
from tests.search.family import Family

OTHER = """
from search.study.local_store import LocalStore
from search.study.stores import FolderStore

class OtherStore(LocalStore, FolderStore):
    FILE = "search.other"
    GIVEN = True
"""
# In a process of its own, because a kind that was found stays.
USED = """
import sys
from pathlib import Path
import search.study
search.study.__path__.append(sys.argv[1])
from search import SearchConfig, SearchError
from search.overview import overviews
from search.results import ResultsFolder

def kinds():
    found = []
    for path in sorted(Path("results").iterdir()):
        try:
            with ResultsFolder.open(path).reading() as store:
                found.append(f"{path.name} {type(store).__name__}")
        except SearchError as error:
            found.append(str(error))
    return found

config = SearchConfig.load(sys.argv[2])
for name in ("given", "none"):
    Path("results", name).mkdir(parents=True)
Path("results/given/search.other").touch()
for name in ("given", "none"):
    ResultsFolder.create(Path("results", name), config, config.identity)
print(kinds())
ResultsFolder.create(Path("results/given"), config, config.identity, fresh=True)
print(kinds())
Path("results/none/search.other").touch()
print(kinds())
print([f"{each.path.name} {each.state}" for each in overviews(Path("results"))])
"""


def test_the_local_store_is_the_kind_of_a_folder_that_has_none_yet(tmp_path: Path) -> None:
    assert LocalStore in kinds()
    assert kind_of(tmp_path) is kind_of(tmp_path / "nothing") is LocalStore


def test_a_folder_has_the_store_whose_file_a_user_put_there_also_after_a_fresh_start(
    tmp_path: Path, shared_family: Family
) -> None:
    (tmp_path / "other_store.py").write_text(OTHER)
    words = [sys.executable, "-c", USED, tmp_path, shared_family.write("mine.yaml")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    created, anew, both, overview = done.stdout.splitlines()
    assert created == "['given OtherStore', 'none LocalStore']"
    assert anew == "['given OtherStore', 'given.1 OtherStore', 'none LocalStore']"
    assert "results/none: has more than one store: search.db and search.other; keep the one that holds" in both
    assert "none unreadable" in overview
