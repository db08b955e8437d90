"""Tiny configs of architectures whose layers are not alike, by name; and the same files as mergekit can read them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests.merging.conftest import Family, make_family
from tests.tiny import CONFIGS

FULL, SLIDING, LINEAR, CONV = "full_attention", "sliding_attention", "linear_attention", "conv"
_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
_GROUPS = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, **_EXPERTS}
_LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}


def _deepseek(**values: object) -> PreTrainedConfig:
    latent = {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8}
    # Its heads share their keys otherwise than by groups.
    return hf.DeepseekV3Config(**{**values, **latent, **_GROUPS, "num_key_value_heads": 4, "first_k_dense_replace": 1})  # type: ignore[arg-type]


KINDS: dict[str, Callable[..., PreTrainedConfig]] = {
    "bamba": partial(hf.BambaConfig, attn_layer_indices=[1], **_MAMBA),
    "deepseek_v3": _deepseek,
    "ernie4_5_moe": partial(
        hf.Ernie4_5_MoeConfig, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1,
        moe_num_shared_experts=1,
    ),
    "gemma3n_text": partial(
        hf.Gemma3nTextConfig, head_dim=8, hidden_size_per_layer_input=8, vocab_size_per_layer_input=263,
        num_kv_shared_layers=2, laurel_rank=4, layer_types=[SLIDING, FULL, SLIDING, FULL], sliding_window=16,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
    ),
    "gemma4_text": partial(
        hf.Gemma4TextConfig, head_dim=8, global_head_dim=16, hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=263, num_kv_shared_layers=0, layer_types=[SLIDING, FULL, SLIDING, FULL],
        sliding_window=16,
    ),
    "glm4_moe": partial(hf.Glm4MoeConfig, first_k_dense_replace=1, head_dim=8, **_GROUPS),
    "granitemoehybrid": partial(
        hf.GraniteMoeHybridConfig, layer_types=["mamba", "attention", "mamba", "mamba"], num_local_experts=4,
        num_experts_per_tok=2, shared_intermediate_size=32, **_MAMBA,
    ),
    "jamba": partial(
        hf.JambaConfig, num_experts=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False,
    ),
    "lfm2": partial(hf.Lfm2Config, layer_types=[CONV, FULL, CONV, FULL], block_multiple_of=8),
    "lfm2_moe": partial(
        hf.Lfm2MoeConfig, layer_types=[CONV, FULL, CONV, FULL], num_dense_layers=2, num_experts=4, **_EXPERTS
    ),
    "llama4_text": partial(
        hf.Llama4TextConfig, intermediate_size_mlp=48, num_local_experts=4, head_dim=8, interleave_moe_layer_step=2,
        attention_chunk_size=64,
    ),
    "nemotron_h": partial(
        hf.NemotronHConfig, layers_block_type=["mamba", "attention", "moe", "mamba"], head_dim=8, mamba_num_heads=4,
        mamba_head_dim=16, ssm_state_size=8, n_groups=1, n_routed_experts=4, moe_shared_expert_intermediate_size=16,
        moe_latent_size=None, **_EXPERTS,
    ),
    "qwen2_moe": partial(
        hf.Qwen2MoeConfig, num_experts=4, shared_expert_intermediate_size=16, mlp_only_layers=[0, 2], **_EXPERTS
    ),
    "qwen3_next": partial(
        hf.Qwen3NextConfig, layer_types=[LINEAR, FULL, LINEAR, LINEAR], head_dim=8, num_experts=4,
        shared_expert_intermediate_size=16, mlp_only_layers=[0], **_EXPERTS, **_LINEAR,
    ),
    "recurrent_gemma": partial(
        hf.RecurrentGemmaConfig, lru_width=32, block_types=["recurrent", "attention"], head_dim=8,
        attention_window_size=16,
    ),
    "zamba2": partial(
        hf.Zamba2Config, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], mamba_d_state=8, mamba_headdim=16,
        n_mamba_heads=4, mamba_ngroups=1, num_mem_blocks=1, adapter_rank=4, use_mem_rope=False,
    ),
}  # fmt: skip


def make_kind(folder: Path, architecture: str, **options: Any) -> Family:
    """Save a family of four layers of one of `KINDS`, in float32 unless `options` say otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, architecture, KINDS[architecture])
        return make_family(folder, **{"architecture": architecture, "layers": 4, "dtype": "float32", **options})


def in_live_layout(family: Family, folder: Path) -> Family:
    """Write a family as the live models hold it.

    mergekit 0.1.5 leaves experts out that files hold one by one in some of the layers.
    """
    return Family(*(_in_live_layout(Path(model), folder) for model in (family.base, family.a, family.b)))


def _in_live_layout(model: Path, folder: Path) -> str:
    copied = shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns("*.safetensors"))
    live: Any = AutoModelForCausalLM.from_pretrained(model)
    saved = {
        name: each.contiguous() for name, each in live.state_dict().items() if name not in live.all_tied_weights_keys
    }
    save_file(saved, copied / "model.safetensors", {"format": "pt"})
    return str(copied)
