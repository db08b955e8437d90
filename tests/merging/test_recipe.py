"""A recipe is a mergekit recipe: everything that mergekit reads is read, and what is wrong is said in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mergekit.config import MergeConfiguration, evaluate_setting  # type: ignore[import-untyped]

from merging import MergingError, ParentSet, Recipe
from merging.methods import METHODS, Parameter
from merging.planning.plan import Plan
from merging.recipes.parameter_types import parameter_types
from merging.recipes.settings import Setting, knots_at, parse_setting
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_tasks

TIES = """
merge_method: ties
base_model: org/root
models:
- model: org/a
  parameters: {weight: 1.0, density: 0.5}
- model: org/b
  parameters: {weight: [0, 0.3, 0.7, 1]}
dtype: bfloat16
"""

DELLA = """
merge_method: della
base_model: org/root
models:
- {model: org/a, parameters: {density: 0.8, epsilon: 0.1}}
- {model: org/b, parameters: {density: 0.1}}
parameters: {weight: 1.0}
"""

SCHEMA = {
    "models": TIES,
    "nulls, as forms leave them": """
merge_method: linear
base_model: null
slices:
modules: null
models:
- model: org/a
  parameters:
- model: org/b
  parameters: {weight: 0.5}
parameters: {weight: 1, normalize: no}
dtype: ~
out_dtype: null
tokenizer_source: null
tokenizer: null
chat_template: null
""",
    "slices": """
merge_method: slerp
slices:
- sources:
  - {model: org/a, layer_range: [0, 8]}
  - {model: org/b, layer_range: [8, 16]}
  base_model: org/a
  parameters: {t: [0, 0.5, 1]}
- sources:
  - {model: org/a, layer_range: [8, 16], parameters: null}
  - {model: org/b, layer_range: [8, 16], parameters: {weight: 3}}
  base_model: org/b
  residual_weight: null
parameters:
  t:
  - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
  - {filter: null, value: 0.5}
dtype: float16
""",
    "modules of models": """
merge_method: linear
modules:
  text_decoder:
    models:
    - {model: org/a, parameters: {weight: 1}}
    - {model: org/b, parameters: {weight: {filter: mlp, value: 0.5}}}
    parameters: {weight: 0.25}
dtype: float32
""",
    "modules of slices": """
merge_method: passthrough
modules:
  default:
    slices:
    - sources: [{model: org/a, layer_range: [0, 2]}]
    - sources: [{model: org/a, layer_range: [1, 3], parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}}]
""",
    "dtypes": TIES.replace("dtype: bfloat16", "dtype: float32\nout_dtype: bfloat16"),
    "tokenizer_source": TIES + "tokenizer_source: union\nchat_template: auto\n",
    "tokenizer": TIES
    + """
tokenizer:
  source: org/b
  pad_to_multiple_of: 64
  tokens:
    "<zero>": {source: {kind: zero}, force: true}
    "<other>": {source: org/b}
    "<id>": {source: {kind: model_token, model: org/a, token_id: 12}}
    "<text>": {source: {kind: model_token, model: org/a, token: "</s>"}}
    "<default>": {force: false}
""",
    "numbers in quotes": TIES.replace("weight: 1.0", "weight: '1e-1'").replace("[0, 0.3", "['0', 3e-1"),
    "long references": TIES.replace("model: org/b", "model: {model: {path: org/b, revision: v2}}"),
    "an adapter": TIES.replace("model: org/b", "model: {model: {path: org/b}, lora: {path: org/c, revision: v1}}"),
}


def parse(text: str) -> Recipe:
    """Read a recipe that is called recipe.yaml in errors."""
    return Recipe.parse(text, source="recipe.yaml")


def refusal(text: str) -> str:
    """Return the message with which a recipe is refused."""
    with pytest.raises(MergingError) as caught:
        parse(text)
    return str(caught.value)


def as_mergekit_reads(recipe_yaml: str) -> MergeConfiguration:
    """Return the recipe as mergekit understands it."""
    return MergeConfiguration.model_validate(yaml.safe_load(recipe_yaml))


def without_empty(value: Any) -> Any:
    """Return plain data without nulls and empty mappings, which mean the same as absence."""
    if isinstance(value, dict):
        return {key: kept for key, each in value.items() if (kept := without_empty(each)) not in (None, {}, [])}
    return [without_empty(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("text", SCHEMA.values(), ids=SCHEMA.keys())
def test_what_is_written_is_what_mergekit_reads_in_the_original(text: str) -> None:
    ours, theirs = as_mergekit_reads(parse(text).to_yaml()), as_mergekit_reads(text)
    assert _numbers_read(without_empty(ours.model_dump())) == _numbers_read(without_empty(theirs.model_dump()))


def _numbers_read(plain: Any) -> Any:
    # A filter alone and a list of that one filter are the same to mergekit.
    if isinstance(plain, dict):
        single = "value" in plain and plain.keys() <= {"filter", "value"}
        read = {key: _numbers_read(value) for key, value in plain.items()}
        return [read] if single else read
    if isinstance(plain, list):
        items = [_numbers_read(item) for item in plain]
        return [item[0] if isinstance(item, list) and isinstance(item[0], dict) else item for item in items]
    return plain


@pytest.mark.parametrize("text", SCHEMA.values(), ids=SCHEMA.keys())
def test_what_is_written_is_read_as_the_same_recipe(text: str) -> None:
    recipe = parse(text)
    again = parse(recipe.to_yaml())
    assert again == recipe
    assert hash(again) == hash(recipe)


@pytest.mark.parametrize("text", SCHEMA.values(), ids=SCHEMA.keys())
def test_what_mergekit_writes_is_read_as_the_same_recipe(text: str) -> None:
    assert parse(as_mergekit_reads(text).to_yaml()) == parse(text)


def test_a_long_reference_is_the_short_one() -> None:
    assert parse(SCHEMA["long references"]).parents() == ("org/a", "org/b@v2", "org/root")
    assert parse(SCHEMA["an adapter"]).parents() == ("org/a", "org/b+org/c@v1", "org/root")


@pytest.mark.parametrize("name", ["c++", "me@home"])
def test_a_folder_may_have_the_characters_of_a_reference(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    theirs = as_mergekit_reads(Recipe.single(str(folder)).to_yaml())
    assert theirs.models is not None
    assert theirs.models[0].model.model.path == str(folder)
    assert theirs.models[0].model.lora is None


def test_a_file_is_read_by_load(tmp_path: Path) -> None:
    file = tmp_path / "ties.yaml"
    file.write_text(TIES, encoding="utf-8")
    assert Recipe.load(file) == parse(TIES)


# --- numbers --------------------------------------------------------------------------------------------------------

NAMES = ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.bias")
numbers = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 4)) | st.integers(-3, 3) | st.just("1e-1")
gradients = st.lists(numbers, min_size=1, max_size=5)
filters = st.fixed_dictionaries(
    {"value": numbers | gradients}, optional={"filter": st.sampled_from(["mlp", "self_attn", "layers.1.", "*", "none"])}
)
settings = numbers | gradients | filters | st.lists(filters, min_size=1, max_size=4)


def resolved(setting: Setting, tensor: str, t: float, parameter: Parameter) -> object:
    knots = knots_at(setting, tensor, t)
    return knots and knots.value(parameter.read)


@given(setting=settings, name=st.sampled_from(NAMES), t=st.floats(0, 1))
def test_a_setting_has_the_value_that_mergekit_gives_it(setting: object, name: str, t: float) -> None:
    text = yaml.safe_dump({"merge_method": "linear", "models": [{"model": "org/a"}], "parameters": {"weight": setting}})
    recipe = parse(text)
    weight = METHODS["linear"].parameter("weight")
    assert weight is not None
    theirs = as_mergekit_reads(recipe.to_yaml()).parameters
    assert theirs is not None
    expected = evaluate_setting(name, theirs["weight"], t, validate=float)
    assert resolved(recipe.parameters["weight"], name, t, weight) == expected


@pytest.mark.parametrize("setting", [[True, False], [False, True, False], True, [{"filter": "mlp", "value": [True]}]])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_a_gradient_of_booleans_is_picked_from_as_in_mergekit(setting: Any, t: float) -> None:
    normalize = METHODS["linear"].parameter("normalize")
    assert normalize is not None
    config = {"merge_method": "linear", "models": [{"model": "org/a"}], "parameters": {"normalize": setting}}
    theirs = MergeConfiguration.model_validate(config).parameters
    assert theirs is not None
    expected = evaluate_setting(NAMES[1], theirs["normalize"], t, validate=bool)
    assert resolved(parse_setting(setting), NAMES[1], t, normalize) == expected


LEVELS = {
    "global": """
models: [{{model: {a}}}, {{model: {b}}}]
parameters: {{weight: [{{filter: mlp, value: [0.1, 0.9]}}, {{value: [1, 0]}}], density: [1, 0.4, 0.1], lambda: [1, 2]}}
""",
    "a model before all": """
models:
- {{model: {a}, parameters: {{weight: [{{filter: q_proj, value: 0.25}}, {{filter: layers.2, value: [0, 4]}}]}}}}
- {{model: {b}, parameters: {{density: {{filter: mlp, value: [0.2, 0.6]}}}}}}
parameters: {{weight: [0.5, 0.1], density: 0.75, normalize: [true, false]}}
""",
    "a source before its slice before all": """
slices:
- sources:
  - {{model: {a}, layer_range: [0, 2], parameters: {{weight: {{filter: mlp, value: [0.2, 0.9]}}}}}}
  - {{model: {b}, layer_range: [1, 3]}}
  - {{model: {base}, layer_range: [0, 2]}}
  parameters: {{weight: {{filter: self_attn, value: 0.3}}, density: [1, 0.5]}}
- sources:
  - {{model: {a}, layer_range: [2, 3], parameters: {{weight: [0.1, 0.8]}}}}
  - {{model: {b}, layer_range: [2, 3]}}
  - {{model: {base}, layer_range: [2, 3]}}
parameters: {{weight: 0.6, density: 0.25}}
""",
    "a module before all": """
modules:
  default:
    models: [{{model: {a}, parameters: {{weight: [1, 0]}}}}, {{model: {b}}}]
    parameters: {{weight: {{filter: mlp, value: [0.3, 0.4]}}}}
parameters: {{weight: 2, lambda: 0.5}}
""",
}


@pytest.mark.parametrize("level", LEVELS)
def test_every_tensor_has_the_numbers_that_mergekit_plans(family: Family, level: str) -> None:
    text = f"merge_method: ties\nbase_model: {family.base}\n" + LEVELS[level].format(
        base=family.base, a=family.a, b=family.b
    )
    recipe = parse(text)
    tasks = mergekit_tasks(recipe.to_yaml())
    with ParentSet.open(recipe) as parents:
        steps = Plan.of(recipe, parents).at(recipe)
    assert {step.name for step in steps} == tasks.keys()
    for step in steps:
        theirs = tasks[step.name]
        for key, value in step.shared:
            assert value == theirs.parameters[key]
        for key, values in step.per_input:
            by_model = {str(model): own[key] for model, own in theirs.input_parameters.items() if key in own}
            assert values == tuple(by_model[source.parent] for source in step.inputs)


# --- bad input ------------------------------------------------------------------------------------------------------

SLICE = """
merge_method: passthrough
slices:
- sources: [{model: org/a, layer_range: [0, 2]}]
"""

REFUSALS = {
    "an unknown key": (
        TIES + "tokeniser_source: base\n",
        "recipe.yaml: tokeniser_source: unknown key; did you mean 'tokenizer_source'? (known: merge_method, ",
    ),
    "an unknown key of a model": (
        TIES.replace("- model: org/a", "- modle: org/a"),
        "recipe.yaml: models[0].modle: unknown key; did you mean 'model'? (known: model, parameters)",
    ),
    "an unknown key of a slice": (
        SLICE.replace("layer_range", "layer_rage"),
        "recipe.yaml: slices[0].sources[0].layer_rage: unknown key; did you mean 'layer_range'?",
    ),
    "an unknown key of a filter": (
        TIES.replace("density: 0.5", "density: [{filer: mlp, value: 1}]"),
        "recipe.yaml: models[0].parameters.density[0].filer: unknown key (a filter has 'filter' and 'value'); "
        "did you mean 'filter'?",
    ),
    "an unknown key of a token": (
        TIES + "tokenizer: {tokens: {'<a>': {sorce: org/a}}}\n",
        "recipe.yaml: tokenizer.tokens.<a>.sorce: unknown key; did you mean 'source'?",
    ),
    "an unknown key of a long reference": (
        TIES.replace("model: org/b", "model: {model: {path: org/b, revison: v2}}"),
        "recipe.yaml: models[1].model: revison: unknown key; did you mean 'revision'?",
    ),
    "an unknown parameter": (
        TIES.replace("density", "densty"),
        "recipe.yaml: models[0].parameters.densty: unknown parameter; ties has weight, density, normalize, rescale, "
        "lambda, int8_mask; did you mean 'density'?",
    ),
    "a wrong type": (
        TIES.replace("weight: 1.0", "weight: much"),
        "recipe.yaml: models[0].parameters.weight: expected a number, got 'much'",
    ),
    "a wrong type within a gradient": (
        TIES.replace("[0, 0.3,", "[0, {a: 1},"),
        "recipe.yaml: models[1].parameters.weight[0]: expected {filter, value}, got 0",
    ),
    "a null for a number": (
        TIES.replace("weight: 1.0", "weight: null"),
        "recipe.yaml: models[0].parameters.weight: expected a number, a list of numbers (a gradient) or filters, "
        "got None",
    ),
    "a boolean for a number": (
        TIES.replace("weight: 1.0", "weight: true"),
        "recipe.yaml: models[0].parameters.weight: expected a number, got True",
    ),
    "a number for a boolean": (
        TIES + "parameters: {normalize: 3}\n",
        "recipe.yaml: parameters.normalize: expected true or false, got 3",
    ),
    "a mapping for a list": (
        "merge_method: linear\nmodels: {a: 1}\n",
        "recipe.yaml: models: expected a list, got {'a': 1}",
    ),
    "a list for a mapping": (
        TIES + "parameters: [1]\n",
        "recipe.yaml: parameters: expected a mapping, got [1]",
    ),
    "a number for a model": (
        TIES.replace("org/a", "3"),
        "recipe.yaml: models[0].model: expected a model (a folder or a hub id), got 3",
    ),
    "an unknown dtype": (
        TIES.replace("bfloat16", "bf16"),
        "recipe.yaml: dtype: expected 'float32', 'bfloat16', 'float16' or 'float64', got 'bf16'",
    ),
    "an unknown method": (
        TIES.replace("method: ties", "method: tise"),
        "recipe.yaml: merge_method: unknown method 'tise'; did you mean 'ties'? (known: ",
    ),
    "a misspelt method key": (
        TIES.replace("merge_method:", "merge_methd:"),
        "recipe.yaml: merge_methd: unknown key; did you mean 'merge_method'?",
    ),
    "no method": (TIES.replace("merge_method: ties", ""), "recipe.yaml: merge_method: is missing"),
    "a required parameter is missing": (
        TIES.replace("weight: 1.0, ", ""),
        "recipe.yaml: models[0].parameters.weight: ties needs the parameter 'weight'; give it here, or for all models "
        "under 'parameters'",
    ),
    "a shared parameter is missing": (
        "merge_method: slerp\nbase_model: org/a\nmodels: [{model: org/a}, {model: org/b}]\n",
        "recipe.yaml: parameters.t: slerp needs the parameter 't'; give it here, for all models",
    ),
    "ties without a base": (
        TIES.replace("base_model: org/root", ""),
        "recipe.yaml: base_model: ties needs a base_model; name the model that the others were fine-tuned from",
    ),
    "slerp of three": (
        "merge_method: slerp\nbase_model: org/root\nmodels: [{model: org/a}, {model: org/b}]\nparameters: {t: 0.5}\n",
        "recipe.yaml: models: slerp merges exactly 2 models, got 3 (the base model is one of them)",
    ),
    "nuslerp of three": (
        "merge_method: nuslerp\nmodels: [{model: org/a}, {model: org/b}, {model: org/c}]\nparameters: {weight: 1}\n",
        "recipe.yaml: models: nuslerp merges exactly 2 models, got 3",
    ),
    "nuslerp of one beside its base": (
        "merge_method: nuslerp\nbase_model: org/root\nmodels: [{model: org/a}]\nparameters: {weight: 1}\n",
        "recipe.yaml: models: nuslerp merges exactly 2 models besides the base model, got 1",
    ),
    "model_stock of two": (
        "merge_method: model_stock\nbase_model: org/root\nmodels: [{model: org/a}]\n",
        "recipe.yaml: models: model_stock merges at least 3 models, got 2 (the base model is one of them)",
    ),
    "arcee_fusion without a base": (
        "merge_method: arcee_fusion\nmodels: [{model: org/a}, {model: org/b}]\n",
        "recipe.yaml: base_model: arcee_fusion needs a base_model",
    ),
    "nearswap without its t": (
        "merge_method: nearswap\nbase_model: org/root\nmodels: [{model: org/a}]\n",
        "recipe.yaml: parameters.t: nearswap needs the parameter 't'; give it here, for all models",
    ),
    "half an iteration": (
        "merge_method: karcher\nmodels: [{model: org/a}]\nparameters: {max_iter: 2.5}\n",
        "recipe.yaml: parameters.max_iter: expected a whole number, got 2.5",
    ),
    "a part above 1": (
        "merge_method: sce\nbase_model: org/root\nmodels: [{model: org/a}]\nparameters: {select_topk: 1.5}\n",
        "recipe.yaml: parameters.select_topk: 1.5 is outside [0, 1]",
    ),
    "a parameter of no method": (
        "merge_method: arcee_fusion\nbase_model: org/root\nmodels: [{model: org/a}]\nparameters: {topk: 1}\n",
        "recipe.yaml: parameters.topk: unknown parameter; arcee_fusion has no parameters",
    ),
    "an epsilon above a half": (
        DELLA.replace("epsilon: 0.1", "epsilon: 0.6"),
        "recipe.yaml: models[0].parameters.epsilon: 0.6 is outside [0, 0.5]",
    ),
    "an epsilon that leaves (0, 1)": (
        DELLA.replace("epsilon: 0.1", "epsilon: 0.2"),
        "recipe.yaml: models[0].parameters: density 0.8 and epsilon 0.2 give probabilities from 0.6 to 1, which must "
        "lie within (0, 1); choose an epsilon below 0.2",
    ),
    "a density that leaves (0, 1) with the epsilon that is the default": (
        DELLA,
        "recipe.yaml: models[1].parameters: density 0.1 and epsilon 0.15 give probabilities from -0.05 to 0.25",
    ),
    "the last layer's density leaves (0, 1)": (
        DELLA.replace("density: 0.8", "density: [0.5, 0.7, 0.95]"),
        "recipe.yaml: models[0].parameters: density 0.95 and epsilon 0.1 give probabilities from 0.85 to 1.05",
    ),
    "a density above 1": (
        TIES.replace("density: 0.5", "density: 1.4"),
        "recipe.yaml: models[0].parameters.density: 1.4 is outside [0, 1]",
    ),
    "a density below 0 within a filter": (
        TIES.replace("density: 0.5", "density: [{filter: mlp, value: [0.5, -0.1]}]"),
        "recipe.yaml: models[0].parameters.density[0].value[1]: -0.1 is outside [0, 1]",
    ),
    "a number that is none": (
        TIES.replace("weight: 1.0", "weight: .nan"),
        "recipe.yaml: models[0].parameters.weight: nan is not finite",
    ),
    "an empty gradient": (
        TIES.replace("[0, 0.3, 0.7, 1]", "[]"),
        "recipe.yaml: models[1].parameters.weight: an empty list is not a gradient; give at least one number",
    ),
    "a filter without a value": (
        TIES.replace("density: 0.5", "density: [{filter: mlp}]"),
        "recipe.yaml: models[0].parameters.density[0]: a filter needs a 'value'",
    ),
    "no inputs": (
        "merge_method: linear\n",
        "recipe.yaml: give exactly one of 'models', 'slices' and 'modules'",
    ),
    "two kinds of inputs": (
        TIES + "slices: [{sources: [{model: org/a, layer_range: [0, 1]}]}]\n",
        "recipe.yaml: give exactly one of 'models', 'slices' and 'modules'",
    ),
    "a key twice": (
        TIES.replace("weight: 1.0,", "weight: 1.0, weight: 2.0,"),
        "recipe.yaml:6: is not valid YAML: the key 'weight' is given twice",
    ),
    "an unknown key of a zero embedding": (
        TIES + "tokenizer: {tokens: {'<a>': {source: {kind: zero, token_id: 3}}}}\n",
        "recipe.yaml: tokenizer.tokens.<a>.source.token_id: unknown key (known: kind)",
    ),
    "a model twice": (TIES.replace("org/b", "org/a"), "recipe.yaml: models[1].model: org/a is given twice"),
    "a slice without layers": (
        SLICE.replace("[0, 2]", "[2, 2]"),
        "recipe.yaml: slices[0].sources[0]: layer_range [2, 2] holds no layers; it is [first, one past the last]",
    ),
    "two tokenizers": (
        TIES + "tokenizer_source: base\ntokenizer: {source: base}\n",
        "recipe.yaml: give either 'tokenizer_source' or 'tokenizer', not both",
    ),
    "an empty file": ("", "recipe.yaml: expected a recipe (a mapping with 'merge_method'), got nothing"),
    "a list": ("- a\n", "recipe.yaml: expected a recipe (a mapping with 'merge_method'), got ['a']"),
}


def test_what_filters_make_of_density_and_epsilon_is_refused_by_the_plan(family: Family) -> None:
    text = DELLA.replace("0.8", "[{filter: up_proj, value: 0.95}, {value: 0.5}]").replace("density: 0.1", "density: 1")
    for name, folder in (("root", family.base), ("a", family.a), ("b", family.b)):
        text = text.replace(f"org/{name}", folder)
    recipe = parse(text)
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError) as caught:
        Plan.of(recipe, parents).at(recipe)
    assert str(caught.value).startswith(
        f"model {family.a}: tensor model.layers.0.mlp.up_proj.weight: density 0.95 and epsilon 0.1 give probabilities"
    )


def test_a_parameter_of_another_method_is_tolerated_if_it_could_be_that_methods() -> None:
    # epsilon is a number of an input below a half to della, and one of the tensor, of any size, to ram.
    parse(TIES + "parameters: {epsilon: 0.6, t: 3, gamma: 0.5}\n")
    assert refusal(TIES + "parameters: {gamma: 1.5}\n") == "recipe.yaml: parameters.gamma: 1.5 is outside [0, 1]"


@pytest.mark.parametrize(("text", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_is_one_message_with_the_file_and_the_key(text: str, message: str) -> None:
    found = refusal(text)
    assert found.startswith(message)
    assert "\n" not in found


def test_sources_of_different_length_are_refused() -> None:
    text = SLICE.replace("}]", "}, {model: org/b, layer_range: [0, 3]}]").replace("passthrough", "linear")
    assert (
        refusal(text)
        == "recipe.yaml: slices[0]: the sources of a slice must have the same number of layers, got [2, 3]"
    )


def test_broken_yaml_is_refused_with_its_line() -> None:
    assert refusal("merge_method: ties\nmodels: [\n- a: {\n").startswith("recipe.yaml:3: is not valid YAML: ")


def test_a_file_that_is_missing_or_no_text_is_refused_by_name(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file, message in ((missing, "cannot be read: No such file or directory"), (binary, "is not UTF-8 text")):
        with pytest.raises(MergingError, match=f"^{file}: {message}"):
            Recipe.load(file)


def test_the_key_of_an_enclosing_file_stands_before_the_recipes_own() -> None:
    data = yaml.safe_load(TIES.replace("density: 0.5", "density: 2"))
    with pytest.raises(MergingError, match=r"^search\.yaml: recipe\.models\[0\]\.parameters\.density: 2 is outside"):
        Recipe.from_dict(data, source="search.yaml", key="recipe")


def test_the_types_of_parameters_are_known_without_the_methods() -> None:
    declared = {p.key: p.kind.__name__ for method in METHODS.values() for p in method.parameters}
    assert parameter_types() == declared
