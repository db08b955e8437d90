"""All checks of a card, in one command that can be stopped and called again.

    python -m tests.gpu --out card.jsonl [--limit 420] [--device cuda] [--small] [--only decode ...] [--list]

Each check runs in a process of its own and writes a line of JSON to the file as soon as it is over: its name, its
status (passed, failed, skipped, timeout), its seconds and what it measured. A check begins only if its estimate fits
into what is left of the limit. The same command goes on: what has a line is not run again, but what the limit cut off
is. It exits with 0 when all checks are over and none has failed, with 1 if one has failed, and with 3 if some are still
to be run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tests.gpu.checks import CHECKS, Check, work
from tests.gpu.decode import SMALL, Sizes

PATIENCE = 3.0
"""How many times its estimate a check may take."""
# What is left of the limit when the last check ends: to write its line.
_MARGIN_SECONDS = 3.0
_CONTEXT = multiprocessing.get_context("forkserver")


def perform(check: Check, sizes: Sizes, device: str, left: float) -> dict[str, Any]:
    """Run a check in a process of its own, for at most what is left of the limit; return its line."""
    limit, began = min(PATIENCE * check.estimate, left), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result"
        process = _CONTEXT.Process(target=work, args=(check.run, sizes, device, str(file)))
        process.start()
        process.join(limit)
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        elif process.is_alive():
            found = {"status": "timeout" if limit < left else "cut off", "reason": f"not over after {limit:.0f} s"}
        else:
            found = {"status": "failed", "reason": f"its process ended with {process.exitcode}"}
        process.kill()
        end(process.pid)
        process.join()
    seconds = round(time.monotonic() - began, 1)
    return {"check": check.name, "status": found.pop("status"), "seconds": seconds, **found}


def end(process: int | None) -> None:
    """End a process that leads a session, and all that it has started."""
    assert process
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, and so has all that it started
        return


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of an earlier call; one that a kill left half written is left out."""
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:
            continue


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is to be run, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the file that gets a line per check")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=420, help="seconds that this call may take")
    parser.add_argument("--small", action="store_true", help="the smallest models: whether all of this runs")
    parser.add_argument("--only", nargs="+", choices=[check.name for check in CHECKS], metavar="CHECK")
    parser.add_argument("--list", action="store_true", help="print the checks and their estimates, and run none")
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"by default {value}")
    options = parser.parse_args(arguments)
    chosen = [check for check in CHECKS if not options.only or check.name in options.only]
    if options.list:
        print(*(f"{check.estimate:4.0f} s  {check.name}" for check in chosen), sep="\n")
        return 0
    if options.out is None:
        parser.error("--out FILE: give the file that gets the results")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"there is no {options.device} here; --device cpu --small shows that all of this runs")
    given = {name: getattr(options, name) for name in asdict(Sizes()) if getattr(options, name) is not None}
    sizes = replace(SMALL if options.small else Sizes(), **given)
    return _run(chosen, sizes, options.device, options.out, options.limit)


def _append(line: str, file: Path) -> None:
    """Add a line to a file, whose last one a kill may have left half written."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f"{'' if before.endswith(chr(10)) or not before else chr(10)}{line}\n")


def _run(chosen: Sequence[Check], sizes: Sizes, device: str, out: Path, limit: float) -> int:
    until, about = time.monotonic() + limit, {"device": device, "sizes": asdict(sizes)}
    known: dict[str, str] = {}
    for earlier in lines_of(out):
        if {key: earlier[key] for key in about} != about:
            sys.exit(
                f"{out}: was made with {earlier['device']} and {earlier['sizes']}; give the same, or another --out"
            )
        known[earlier["check"]] = earlier["status"]
    waiting = [check for check in chosen if known.get(check.name, "cut off") == "cut off"]
    for check in waiting:
        left = until - time.monotonic() - _MARGIN_SECONDS
        if left < check.estimate:
            continue
        found = perform(check, sizes, device, left) | about
        _append(json.dumps(found), out)
        known[check.name] = found["status"]
        print(json.dumps({key: value for key, value in found.items() if key not in about}), flush=True)
    rest = [check.name for check in chosen if known.get(check.name, "cut off") == "cut off"]
    failed = [check.name for check in chosen if known.get(check.name) in ("failed", "timeout")]
    if failed:
        print(f"failed: {', '.join(failed)}")
    if rest:
        print(f"still to be run, by the same command: {', '.join(rest)}")
    return 3 if rest else 1 if failed else 0


if __name__ == "__main__":
    _CONTEXT.set_forkserver_preload(["tests.gpu.checks"])
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
