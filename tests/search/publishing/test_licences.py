"""Licences of parents: what their READMEs say, which go together, and what the merge's metadata then says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from merging import Recipe
from search.publishing.licences import Licence, concerns, merged
from search.publishing.parent_models import metadata, parent_models, parents_section
from tests.search.publishing.fake_hub import fake_hub

APACHE, MIT, GPL = Licence("apache-2.0"), Licence("mit"), Licence("gpl-3.0")
LLAMA, DEEPSEEK = Licence("llama3.1"), Licence("deepseek", False, "https://example.org/L")
NC, ND, OWN = Licence("cc-by-nc-4.0"), Licence("cc-by-nc-nd-4.0"), Licence("acme-eula", False)


@pytest.mark.parametrize(
    ("licences", "said", "of_the_merge"),
    [
        ([APACHE, APACHE], "", APACHE),
        ([APACHE, MIT], "", Licence("see-the-parents", False)),
        ([APACHE, DEEPSEEK, DEEPSEEK], "", DEEPSEEK),
        ([LLAMA], "", LLAMA),
        ([MIT, GPL], "", GPL),
        ([LLAMA, DEEPSEEK], "each requires that its own terms go with the merge", Licence("see-the-parents", False)),
        ([GPL, LLAMA], "`gpl-3.0` allows no further restrictions, and `llama3.1` adds some", None),
        ([NC, GPL], "`gpl-3.0` allows no further restrictions, and `cc-by-nc-4.0` adds some", None),
        ([Licence("gpl-2.0"), APACHE], "the older GPL has no place for Apache's patent terms", None),
        ([Licence("GPL 2.0"), Licence("Apache-2.0")], "the older GPL has no place for Apache's patent terms", None),
        ([NC, APACHE], "allows no commercial use, so neither does the merge", None),
        ([ND], "`cc-by-nc-nd-4.0` forbids sharing changed versions", ND),
        ([OWN, APACHE], "`acme-eula`: no rule for it is known here: check its terms", None),
        ([APACHE, None], "The licence of a parent is not known: check it.", Licence("unknown")),
    ],
)
def test_licences_that_do_not_go_together_are_told(
    licences: list[Licence | None], said: str, of_the_merge: Licence | None
) -> None:
    for order in (licences, licences[::-1]):
        found = " ".join(concerns(order))
        assert (said in found) if said else not found
        assert merged(order) == (of_the_merge or Licence("see-the-parents", False))


def test_a_licence_is_what_the_parents_own_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(name: str, front: str) -> Path:
        place = tmp_path / name
        place.mkdir(parents=True)
        (place / "README.md").write_text(f"---\n{front}\n---\n# {name}\n", encoding="utf-8")
        return place

    plain = folder("plain", "license: mit")
    broken = folder("broken", "license: [")
    cached = folder(
        "models--deepseek-ai--coder/snapshots/0123", "license: other\nlicense_name: deepseek\nlicense_link: LICENSE"
    )
    recipe = Recipe.parse(f"""
merge_method: linear
models: [{{model: {plain}}}, {{model: {broken}}}, {{model: {cached}}}, {{model: own/kept}}, {{model: own/none@main}}]
parameters: {{weight: 1.0}}
""")
    with fake_hub(tmp_path, monkeypatch) as hub:
        hub.readmes = {"own/kept": "---\nlicense: llama3\n---\n"}
        assert [parent.licence for parent in parent_models(recipe, ask_hub=False)][3:] == [None, None]
        assert not hub.requests
        parents = parent_models(recipe, ask_hub=True)
    link = "https://huggingface.co/deepseek-ai/coder/blob/main/LICENSE"
    deepseek = Licence("deepseek", False, link)
    assert [parent.licence for parent in parents] == [MIT, None, deepseek, Licence("llama3"), None]
    assert [parent.hub_id for parent in parents] == [None, None, "deepseek-ai/coder", "own/kept", "own/none"]
    bases = ["deepseek-ai/coder", "own/kept", "own/none"]
    assert metadata(parents) == {"base_model": bases, "base_model_relation": "merge", "license": "unknown"}
    assert metadata(parents[2:3]) == {
        "base_model": ["deepseek-ai/coder"],
        "base_model_relation": "merge",
        "license": "other",
        "license_name": "deepseek",
        "license_link": link,
    }
    section = parents_section(parents)
    assert "| `plain`, a folder that is not from the hub | mit |" in section
    assert f"| [deepseek-ai/coder](https://huggingface.co/deepseek-ai/coder) | [deepseek]({link}) |" in section
    assert "| [own/none@main](https://huggingface.co/own/none) | unknown |" in section
    assert "**Check the licences" in section
    assert str(tmp_path) not in section
    assert yaml.safe_dump(metadata(parents))
