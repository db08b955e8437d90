"""The recipes that parity is tested on, by method: gradients, filters, negative weights, every switch."""

from __future__ import annotations

from tests.merging.conftest import Family


def recipes(family: Family, dtype: str) -> dict[str, str]:
    """Return recipes as YAML text, by what is particular about them."""
    base, a, b = family.base, family.a, family.b

    def task_vectors(method: str, first: str, second: str, shared: str = "{}") -> str:
        return f"""
merge_method: {method}
base_model: {base}
models:
- {{model: {a}, parameters: {first}}}
- {{model: {b}, parameters: {second}}}
parameters: {shared}
dtype: {dtype}
"""

    slerp = f"""
merge_method: slerp
base_model: {a}
models: [{{model: {a}}}, {{model: {b}}}]
parameters:
  t:
  - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
  - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}
  - {{value: 0.5}}
dtype: {dtype}
"""
    linear = f"""
merge_method: linear
models:
- {{model: {a}, parameters: {{weight: [0.2, 1.0]}}}}
- {{model: {b}, parameters: {{weight: 0.3}}}}
- {{model: {base}, parameters: {{weight: [{{filter: mlp, value: 0.1}}, {{value: 0.7}}]}}}}
dtype: {dtype}
"""
    passthrough = f"""
merge_method: passthrough
models:
- {{model: {a}, parameters: {{scale: [{{filter: o_proj, value: 0.3}}, {{value: 1.0}}]}}}}
dtype: {dtype}
"""
    slices = f"""
merge_method: ties
base_model: {base}
slices:
- sources:
  - {{model: {a}, layer_range: [0, 2], parameters: {{weight: [0.2, 0.9]}}}}
  - {{model: {b}, layer_range: [0, 2], parameters: {{weight: 0.4}}}}
  - {{model: {base}, layer_range: [0, 2]}}
  parameters: {{density: 1.0}}
- sources:
  - {{model: {a}, layer_range: [2, 3], parameters: {{weight: [0.1, 0.8]}}}}
  - {{model: {b}, layer_range: [2, 3]}}
  - {{model: {base}, layer_range: [2, 3]}}
parameters: {{weight: 0.6, density: 0.5}}
dtype: {dtype}
"""
    known = ("{density: [1, 0.7, 0.1], weight: 1.0}", "{density: 0.5, weight: [0, 0.3, 0.7, 1]}")
    untrimmed = ("{weight: [0.9, 0.2]}", "{weight: [{filter: mlp, value: 0.3}, {value: 0.8}]}")
    negative = ("{weight: -0.5}", "{weight: [0.1, 0.7]}")
    return {
        "ties": task_vectors("ties", *known, "{int8_mask: true}"),
        "ties, not normalized, lambda, rescale": task_vectors(
            "ties", *known, "{normalize: false, rescale: true, lambda: 0.8}"
        ),
        "ties, negative weights": task_vectors("ties", *negative, "{density: 0.6}"),
        "ties, cancelling weights": task_vectors("ties", "{weight: -0.5}", "{weight: 0.5}"),
        "task_arithmetic": task_vectors("task_arithmetic", *untrimmed),
        "task_arithmetic, normalized": task_vectors("task_arithmetic", *untrimmed, "{normalize: true, lambda: 1.3}"),
        "dare_linear, density 1": task_vectors("dare_linear", *untrimmed),
        "dare_ties, density 1": task_vectors("dare_ties", *untrimmed, "{normalize: true}"),
        "slerp": slerp,
        "linear": linear,
        "linear, not normalized": linear + "parameters: {normalize: false}\n",
        "passthrough": passthrough,
        "slices": slices,
        "out_dtype": task_vectors("ties", *known) + "out_dtype: float16\n",
    }


NAMES = tuple(recipes(Family("base", "a", "b"), "bfloat16"))
