"""What a forked `merge-search` need not import: imported by the server of `processes`."""

from __future__ import annotations

import gc
from importlib import import_module

for name in ("run.phases", "run.setup", "trial_export"):
    import_module(f"search.{name}")
import_module("transformers.models.llama.modeling_llama")
gc.freeze()
