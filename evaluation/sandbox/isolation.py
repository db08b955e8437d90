"""Which layers of confinement a system has, and whether they are enough to execute foreign code."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Literal, TypeAlias

LayerName: TypeAlias = Literal[
    "two processes", "rlimits", "no-new-privs", "seccomp", "landlock", "bubblewrap", "clock less run delay"
]

REQUIRED: tuple[LayerName, ...] = ("rlimits", "no-new-privs", "seccomp")
# One of these is enough: each keeps a run from files that are not its own.
FILE_LAYERS: tuple[LayerName, ...] = ("landlock", "bubblewrap")

_BRIEF = 90
CONTAINER_FLAGS = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
_REMEDIES: dict[LayerName, str] = {
    "rlimits": "run where setrlimit works: no emulator or sandbox that ignores it",
    "no-new-privs": "run on Linux 3.5 or later, not in an emulator of it",
    "seccomp": "run on Linux on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER; gVisor and user-mode emulators have none",
    "landlock": "boot Linux 5.13 or later with landlock in its lsm= list; no container flag is needed",
    "bubblewrap": "install it (apt-get install bubblewrap); a container must be started with "
    f"`{CONTAINER_FLAGS}`, so that it may make namespaces; on Ubuntu 24.04, "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
}


@dataclass(frozen=True, slots=True)
class SandboxLayer:
    """One layer.

    Attributes:
        name: the layer's name.
        active: whether it confines programs. True only after every attack that it must stop was tried and refused.
        detail: its version, or why it is missing; may be empty.
    """

    name: LayerName
    active: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name

    @property
    def brief(self) -> str:
        """Its name and the first clause of its detail."""
        clause = textwrap.shorten(re.split(r"[,;.] ", self.detail)[0], _BRIEF, placeholder=" ...")
        return f"{self.name} ({clause})" if clause else self.name


@dataclass(frozen=True, slots=True)
class Isolation:
    """The layers that confine programs.

    Attributes:
        layers: all of them, including those that this system lacks.
        refused: the attacks that were tried under all layers together and failed.
        breaches: the attacks that got through.
    """

    layers: tuple[SandboxLayer, ...] = ()
    refused: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()

    @property
    def active(self) -> tuple[str, ...]:
        """The layers that confine programs."""
        return tuple(str(layer) for layer in self.layers if layer.active)

    @property
    def missing(self) -> tuple[str, ...]:
        """The layers that this system lacks."""
        return tuple(str(layer) for layer in self.layers if not layer.active)

    @property
    def note(self) -> str:
        """A note on the missing layers; empty if none is missing."""
        missing = ", ".join(layer.brief for layer in self.layers if not layer.active)
        return f"the sandbox works without {missing}; run `merge-search check` for details" if missing else ""

    @property
    def shortfall(self) -> str:
        """A sentence on what must change before a program may be executed; empty if nothing must."""
        active = {layer.name for layer in self.layers if layer.active}
        lacks: list[str] = [f"{name} ({remedy(name)})" for name in REQUIRED if name not in active]
        if active.isdisjoint(FILE_LAYERS):
            either = ", or ".join(f"{name} ({remedy(name)})" for name in reversed(FILE_LAYERS))
            lacks.append(either)
        if not lacks and self.breaches:
            return f"under all its layers a program still {', '.join(self.breaches)}; please report this system"
        return f"this system lacks {'; and '.join(lacks)}" if lacks else ""

    def __str__(self) -> str:
        return ", ".join(self.active) + (f"; missing: {', '.join(self.missing)}" if self.missing else "")


def remedy(name: LayerName) -> str:
    """Return what a user can do to get a missing layer; empty if nothing helps."""
    return _REMEDIES.get(name, "")
