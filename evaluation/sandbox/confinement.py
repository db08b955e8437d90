"""The layers that confine a run, and which of them this system has.

Guarantees: a layer is reported as active only after a forked probe under it has tried the attacks that it must stop.
Then all attacks are tried again under all layers together. ``isolation`` decides whether the active layers are enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from evaluation.sandbox import landlock, limits, seccomp
from evaluation.sandbox.attacks import BY_LAYER, Attack, got_through
from evaluation.sandbox.isolation import Isolation, LayerName, SandboxLayer

_PROBE_SECONDS = 3.0  # limit on the processor time of an attempt to break out; none takes so long
_EVERYTHING = {name: attack for attacks in BY_LAYER.values() for name, attack in attacks.items()}


class Confinement:
    """The layers that a fork applies to itself, prepared once in its zygote.

    Args:
        scratch: the folder that a run may write to; None if there is none.
        numpy: the folders of numpy.
        bubblewrap: the version of the bubblewrap that the zygote runs in; empty if it runs in none.
        without_bubblewrap: why it runs in none.
        delay_is_measured: whether the clock of a check can tell how long it waited for a core.
    """

    def __init__(
        self,
        scratch: Path | None,
        *,
        numpy: Sequence[Path] = (),
        bubblewrap: str = "",
        without_bubblewrap: str = "",
        delay_is_measured: bool = True,
    ) -> None:
        self._scratch = scratch
        self._ruleset: int | None = None
        self._filter: bytes | None = None
        layers = [
            SandboxLayer("two processes", True),
            _tried("rlimits", partial(limits.restrict, _PROBE_SECONDS), "the kernel does not keep them"),
            _tried("no-new-privs", limits.forbid_new_privileges, "the kernel has none"),
            self._calls(),
            self._files(numpy),
        ]
        boxed = bool(bubblewrap) and _stops("bubblewrap", lambda: None)
        why_not = without_bubblewrap or "it does not stop what it should"
        layers.append(SandboxLayer("bubblewrap", boxed, bubblewrap if boxed else why_not))
        no_delay = "" if delay_is_measured else "the kernel keeps no schedstat; time on the wall is counted"
        layers.append(SandboxLayer("clock less run delay", delay_is_measured, no_delay))
        self._layers = tuple(layers)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that must stay open until ``apply``."""
        return () if self._ruleset is None else (self._ruleset,)

    def apply(self, budget_seconds: float = _PROBE_SECONDS) -> None:
        """Confine this process for good, for a check of this many seconds.

        Raises OSError if a layer that worked in the probe fails.
        """
        os.chdir(self._scratch or "/")
        limits.restrict(budget_seconds)
        if self._ruleset is not None:
            landlock.enforce(self._ruleset)
            os.close(self._ruleset)
        if self._filter is not None:
            seccomp.install(self._filter)

    def examine(self) -> Isolation:
        """Try all attacks under all layers, and return the layers with the results."""
        # In bubblewrap without Landlock our code can be read, but it is not secret.
        attacks = {name: attack for name, attack in _EVERYTHING.items() if name not in _OF_LANDLOCK_ALONE}
        breaches = _breaches(self.apply, attacks)
        refused = tuple(name for name in attacks if name not in breaches)
        return Isolation(self._layers, refused, tuple(breaches))

    def _calls(self) -> SandboxLayer:
        machine = os.uname().machine
        if machine not in seccomp.MACHINES:
            return SandboxLayer("seccomp", False, f"the calls of {machine} are not known")
        program = seccomp.build(machine)
        if not _stops("seccomp", partial(_without_privileges, partial(seccomp.install, program))):
            return SandboxLayer("seccomp", False, "the kernel takes no filter")
        self._filter = program
        return SandboxLayer("seccomp", True, machine)

    def _files(self, numpy: Sequence[Path]) -> SandboxLayer:
        abi = landlock.abi()
        if not abi:
            return SandboxLayer("landlock", False, "the kernel has none")
        ruleset = landlock.build(self._scratch, numpy)
        if not _stops("landlock", partial(_without_privileges, partial(landlock.enforce, ruleset))):
            os.close(ruleset)
            return SandboxLayer("landlock", False, "it does not stop what it should")
        self._ruleset = ruleset
        return SandboxLayer("landlock", True, f"abi {abi}")


_OF_LANDLOCK_ALONE = BY_LAYER["landlock"].keys() - BY_LAYER["bubblewrap"].keys()


def _tried(name: LayerName, layer: Callable[[], None], why_not: str) -> SandboxLayer:
    active = _stops(name, layer)
    return SandboxLayer(name, active, "" if active else why_not)


def _without_privileges(layer: Callable[[], None]) -> None:
    limits.forbid_new_privileges()
    layer()


def _stops(name: LayerName, layer: Callable[[], None]) -> bool:
    """Return whether a fork can put itself under a layer and the layer refuses every attack that it must stop."""
    return not _breaches(layer, BY_LAYER[name])


def _breaches(confine: Callable[[], None], attacks: Mapping[str, Attack]) -> list[str]:
    """Return the attacks that get through in a confined fork; all of them if the fork cannot be confined or dies."""
    told, telling = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(told)
            confine()
            os.write(telling, bytes([got_through(attack) for attack in attacks.values()]))
        finally:
            os._exit(0)
    os.close(telling)
    with os.fdopen(told, "rb") as file:
        through = file.read()
    os.waitpid(process, 0)
    if len(through) != len(attacks):
        return list(attacks)
    return [name for name, got in zip(attacks, through, strict=True) if got]
