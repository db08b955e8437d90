"""Neighbours: the workers of a search on one machine, and how they share its cores and cards.

Guarantees: pure functions of workplaces. Only workers of the same results folder know of one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from search.study.store import Workplace

_SHOWN = 8  # characters of a worker's name


def share_of(cores: int, others: int) -> int:
    """Return how many cores a worker takes beside others on its machine: an equal share, and at least one."""
    return max(1, cores // (others + 1))


def on_machine(host: str, workers: Mapping[str, Workplace]) -> int:
    """Return how many workers are on a machine."""
    return sum(place.host == host for place in workers.values())


def notes_on_cards(own: Workplace, others: Mapping[str, Workplace], here: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each card that a worker shares with another.

    Args:
        own: the worker's own place.
        others: the places of other workers, by name.
        here: the identities of the cards that the worker could take, by name.
    """
    free = [card for card in here if not any(_is_on(place, card, own.host, here[card]) for place in others.values())]
    remedy = f"take another card: --device {free[0]}" if free else "this machine has no other that is free"
    for name, place in others.items():
        for card, identity in own.devices.items():
            if not card.startswith("cpu") and _is_on(place, card, own.host, identity):
                yield (f"worker {name[:_SHOWN]} is already on {card} of this machine; both share its memory; {remedy}")


def _is_on(place: Workplace, card: str, host: str, identity: str) -> bool:
    """Whether a worker is on a card. A card's identity is unique; its name holds for one machine and one process."""
    identities = set(filter(None, place.devices.values()))
    if identity and identities:
        return identity in identities
    return place.host == host and card in place.devices
