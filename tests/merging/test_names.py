"""The names that others build on can be imported in any order."""

from __future__ import annotations

import subprocess
import sys

# Those that others import.
NAMES = ["Merger", "ParentSet", "export_model", "load_model"]


def test_each_name_can_be_the_first_that_is_imported() -> None:
    # In fresh children of one process that has torch and transformers already, which take seconds.
    code = f"""
import os, sys
import torch, transformers, huggingface_hub, safetensors, tokenizers, transformers.conversion_mapping
failed = []
for name in {NAMES!r}:
    child = os.fork()
    if not child:
        try:
            exec(f"from merging import {{name}}")
        except BaseException as error:
            print(name, error, flush=True)
            os._exit(1)
        os._exit(0)
    failed += [name] * (os.waitpid(child, 0)[1] != 0)
sys.exit(bool(failed))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
