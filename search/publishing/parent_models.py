"""The parents of a merge, for its model card: where they are on the hub, and their licences.

Guarantees: a licence is what the parent's own README says in its metadata, or unknown; nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merging import Recipe
from merging.checkpoints.references import is_hub_id, parts_of, short_names
from search.publishing.licences import Licence, concerns, merged

HUB = "https://huggingface.co"
_README, _SNAPSHOTS, _REPO = "README.md", "snapshots", "models--"


@dataclass(frozen=True, slots=True)
class ParentModel:
    """A parent, or the adapter of one.

    Attributes:
        name: the displayed name: its hub id, or the short name of a folder.
        hub_id: its id on the hub, without a revision; None for a folder outside of the hub's cache.
        licence: its licence; None if that is unknown.
    """

    name: str
    hub_id: str | None
    licence: Licence | None


def parent_models(recipe: Recipe, ask_hub: bool) -> tuple[ParentModel, ...]:
    """Return the models that a recipe merges, in its order.

    Args:
        recipe: the recipe, with each model named by its present place.
        ask_hub: whether a README that is not in the hub's cache may be downloaded.
    """
    parts = dict.fromkeys(part for parent in recipe.parents() for part in _parts(parent))
    named = short_names(part for part in parts if Path(part).expanduser().is_dir())
    return tuple(_parent(part, named, ask_hub) for part in parts)


def _parts(parent: str) -> tuple[str, ...]:
    return (parent,) if Path(parent).expanduser().is_dir() else parts_of(parent)


def _parent(part: str, named: Mapping[str, str], ask_hub: bool) -> ParentModel:
    folder = Path(part).expanduser()
    if folder.is_dir():
        hub_id = _cached_id(folder)
        return ParentModel(hub_id or named[part], hub_id, _licence(folder / _README, hub_id))
    hub_id, _, revision = part.partition("@")
    return ParentModel(part, hub_id if is_hub_id(part) else None, _on_hub(hub_id, revision, ask_hub))


def _cached_id(folder: Path) -> str | None:
    """Return the hub id of a folder of the hub's cache: models--OWNER--NAME/snapshots/COMMIT."""
    place = folder.resolve()
    repo = place.parent.parent.name
    if place.parent.name != _SNAPSHOTS or not repo.startswith(_REPO):
        return None
    return repo.removeprefix(_REPO).replace("--", "/", 1)


def _on_hub(hub_id: str, revision: str, ask_hub: bool) -> Licence | None:
    from huggingface_hub import HfApi, try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, _README, revision=revision or None)
    if not isinstance(found, str) and ask_hub:
        try:
            found = HfApi().hf_hub_download(hub_id, _README, revision=revision or None)
        except Exception:  # the errors of huggingface_hub, its HTTP client and proxies have no common base
            return None
    return _licence(Path(found), hub_id) if isinstance(found, str) else None


def _licence(readme: Path, hub_id: str | None) -> Licence | None:
    """Return the licence that a README's metadata names, if it does."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        known = metadata_load(readme)
    except (OSError, ValueError, YAMLError):
        return None
    if not isinstance(known, Mapping):
        return None
    names = known.get("license")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name == "unknown":
        return None
    if name != "other":
        return Licence(name)
    own = known.get("license_name")
    link = str(known.get("license_link") or "")
    if link and "://" not in link:
        link = f"{HUB}/{hub_id}/blob/main/{link}" if hub_id else ""
    return Licence(own, False, link) if isinstance(own, str) and own else None


def metadata(parents: Sequence[ParentModel]) -> dict[str, object]:
    """Return the metadata of a merge's model card that follows from its parents."""
    bases = list(dict.fromkeys(parent.hub_id for parent in parents if parent.hub_id))
    licence = merged([parent.licence for parent in parents])
    found: dict[str, object] = {"base_model": bases, "base_model_relation": "merge"} if bases else {}
    if licence.is_listed:
        return found | {"license": licence.name}
    more = {"license_link": licence.link} if licence.link else {}
    return found | {"license": "other", "license_name": licence.name} | more


def parents_section(parents: Sequence[ParentModel]) -> str:
    """Return the section of a model card about the parents and their licences."""
    rows = "".join(f"| {_shown(parent)} | {_shown_licence(parent.licence)} |\n" for parent in parents)
    warnings = concerns([parent.licence for parent in parents])
    listed = "".join(f"- {warning}\n" for warning in warnings)
    warned = f"\n**Check the licences before you share or use this model:**\n\n{listed}" if warnings else ""
    return f"\n## Parents\n\n| model | licence |\n|---|---|\n{rows}{warned}"


def _shown(parent: ParentModel) -> str:
    if parent.hub_id:
        return f"[{parent.name}]({HUB}/{parent.hub_id})"
    return f"`{parent.name}`, a folder that is not from the hub"


def _shown_licence(licence: Licence | None) -> str:
    if licence is None:
        return "unknown"
    return f"[{licence.name}]({licence.link})" if licence.link else licence.name
