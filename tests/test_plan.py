import json
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from summands.compressions import Keep
from summands.compressions.text import parse
from summands.errors import ArgumentError, FileError, PlanError
from summands.plan import Plan, Task, default_plan
from summands.zoo.networks import build

PLAN_FOLDER = Path(__file__).parents[1] / "plans"
HALF, BRAIN, EXACT = Keep("float16"), Keep("bfloat16"), Keep()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, bias=False)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.hollow = nn.Parameter(torch.zeros(0, 3))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


def names(plan, tensors):
    return {task.name: task.weights for task in plan.match(tensors).tasks}


def refusal(action, error=PlanError):
    with pytest.raises(error) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pattern_makes_one_task_of_its_matches_and_the_first_rule_wins():
    plan = Plan({"conv1.weight": HALF, "Conv2d": BRAIN, "re:head\\.[0-9]": EXACT, "*": HALF}, ignore=["*.bias"])
    matched = plan.match(Net())
    assert matched.tasks == (
        Task("conv1.weight", ("conv1.weight",), HALF),
        Task("Conv2d", ("conv2.weight",), BRAIN),
        Task("re:head\\.[0-9]", ("head.0.weight", "head.1.weight"), EXACT),
        Task("*", ("bn.weight",), HALF),
    )
    assert matched.ignored == ("conv1.bias", "bn.bias", "head.0.bias", "head.1.bias")
    assert matched.kept == {
        "temperature": "0-d",
        "hollow": "empty",
        "bn.running_mean": "buffer",
        "bn.running_var": "buffer",
        "bn.num_batches_tracked": "buffer",
    }
    assert matched.tied == {}
    assert {row.weight for row in matched.rows} == set(Net().state_dict())


def test_a_pattern_reaches_weights_through_the_module_that_owns_them():
    assert names(Plan({"conv1": HALF, "head.?": BRAIN, "*": HALF}), Net()) == {
        "conv1": ("conv1.weight", "conv1.bias"),
        "head.?": ("head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"),
        "*": ("bn.weight", "bn.bias", "conv2.weight"),
    }


def test_globs_and_expressions_distinguish_case_and_match_in_full():
    tensors = {"Conv.weight": torch.ones(2), "conv.weight": torch.ones(2), "conv.weight_g": torch.ones(2)}
    assert names(Plan({"conv.w*t": HALF, "re:.*weight": HALF, "*": HALF}), tensors) == {
        "conv.w*t": ("conv.weight",),
        "re:.*weight": ("Conv.weight",),
        "*": ("conv.weight_g",),
    }


def test_an_exact_name_means_that_weight_alone_whatever_it_looks_like():
    tensors = {"a": torch.ones(2), "a.b": torch.ones(2), "c[0]": torch.ones(2), "c0": torch.ones(2)}
    plan = Plan({"a": HALF, "c[0]": BRAIN, "*": EXACT})
    assert names(plan, tensors) == {"a": ("a",), "c[0]": ("c[0]",), "*": ("a.b", "c0")}


def test_of_a_checkpoint_what_cannot_be_compressed_is_kept_and_listed():
    matched = Plan({"*": HALF}).match(
        {
            "w": torch.ones(2, 2),
            "half": torch.ones(2, dtype=torch.bfloat16),
            "bn.running_var": torch.ones(2),
            "steps": torch.ones(2, dtype=torch.int64),
            "mask": torch.ones(2, dtype=torch.bool),
            "wave": torch.ones(2, dtype=torch.complex64),
            "eighth": torch.ones(2).to(torch.float8_e4m3fn),
            "scalar": torch.tensor(2.0),
            "none": torch.ones(3, 0),
        }
    )
    assert matched.tasks == (Task("*", ("w", "half"), HALF),)
    assert matched.kept == {
        "bn.running_var": "buffer",
        "steps": "int64",
        "mask": "bool",
        "wave": "complex64",
        "eighth": "float8_e4m3fn",
        "scalar": "0-d",
        "none": "empty",
    }


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(7, 3)
        self.decoder = nn.Linear(3, 7, bias=False)
        self.decoder.weight = self.encoder.weight


with torch.device("meta"):
    META = Tied()


@pytest.mark.parametrize("tensors", [Tied(), Tied().state_dict(), META], ids=["model", "dict", "meta"])
@pytest.mark.parametrize("pattern", ["encoder.weight", "decoder", "dec*", "*"])
def test_a_tied_weight_is_one_weight_found_by_any_of_its_names(tensors, pattern):
    matched = Plan({pattern: HALF}).match(tensors)
    assert matched.tasks == (Task(pattern, ("encoder.weight",), HALF),)
    assert matched.tied == {"decoder.weight": "encoder.weight"}
    assert str(matched).splitlines()[-1].endswith("is encoder.weight")


def test_a_tied_weight_is_found_by_the_class_of_either_owner():
    for pattern in ("Embedding", "Linear"):
        assert names(Plan({pattern: HALF}), Tied()) == {pattern: ("encoder.weight",)}
    assert Plan({}, ignore=["decoder"]).match(Tied()).ignored == ("encoder.weight",)


def test_equal_tensors_and_views_of_one_memory_are_not_tied():
    base = torch.ones(4, 4)
    tensors = {"a": base, "b": base.clone(), "c": base.T, "d": base[:2], "e": torch.ones(0), "f": torch.ones(0)}
    assert Plan({"*": HALF}).match(tensors).tied == {}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({"cnv1": HALF, "*": HALF}), "pattern 'cnv1' matches no weight; did you mean 'conv1'"),
        (Plan({"Conv2D": HALF, "*": HALF}), "pattern 'Conv2D' matches no weight; did you mean 'Conv2d'"),
        (Plan({"*": HALF}, ignore=["*.bais"]), "ignore pattern '*.bais' matches no tensor; did you mean 'bn.bias'"),
        (Plan({"*.weight": HALF}), "no rule matches 'conv1.bias', 'bn.bias', 'head.0.bias', 'head.1.bias'; add a rule"),
        (Plan({}), "'head.1.weight' and 1 more; add a rule, or list under `ignore`"),
        (
            Plan({"*": HALF, "conv1": HALF, "bn": HALF}),
            "'conv1' gets no weight: '*' took all that it matches; move it up",
        ),
        (Plan({"conv1": HALF, "*": HALF}, ignore=["conv*"]), "'conv1' gets no weight: 'conv*' took all"),
        (Plan({"temperature": HALF, "*": HALF}), "only tensors that are always kept exactly: 'temperature (0-d)'"),
        (Plan({"bn.running_mean": HALF, "*": HALF}), "always kept exactly: 'bn.running_mean (buffer)'; remove it"),
        (Plan({"scratch": HALF, "*": HALF}), "pattern 'scratch' matches no weight"),
    ],
)
def test_a_plan_that_does_not_fit_says_why_and_what_to_do(plan, message):
    assert message in refusal(lambda: plan.match(Net()))


def test_class_names_need_the_model():
    assert "module class names need the model" in refusal(lambda: Plan({"Conv2d": HALF}).match(Net().state_dict()))


def test_other_things_than_tensors_are_refused():
    assert "must be a module or {name: tensor}, got 'list'" in refusal(lambda: Plan({}).match([1]), ArgumentError)
    assert "entry 'epoch' must be a tensor" in refusal(lambda: Plan({}).match({"epoch": 3}), ArgumentError)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Plan("*"), "Plan(weights) must be a mapping"),
        (lambda: Plan({"*": HALF}, ignore="*.bias"), "Plan(ignore=...) must be a list of patterns, got '*.bias'"),
        (lambda: Plan({"*": 3}), "a compression must be a text"),
        (lambda: Plan({"*": "Kepe()"}), "did you mean 'Keep'? (in 'Kepe()') (for '*')"),
        (lambda: Plan({"": HALF}), "a pattern must be a text that is not empty"),
        (lambda: Plan({3: HALF}), "a pattern must be a text that is not empty, got 3; quote it"),
        (lambda: Plan({"re:(": HALF}), "must be a regular expression after 're:'"),
        (lambda: Plan({}, ignore=["re:["]), "must be a regular expression after 're:'"),
        (lambda: Plan({}, ignore=[None]), "a pattern must be a text"),
        (lambda: Plan.from_dict([]), "a plan must be a mapping with the key 'weights'"),
        (lambda: Plan.from_dict({}), "a plan needs the key 'weights'"),
        (
            lambda: Plan.from_dict({"weight": {}}),
            "a plan has no key 'weight'; did you mean 'weights'? (allowed: 'weights'",
        ),
        (lambda: Plan.from_yaml(""), "must be a mapping with the key 'weights', got None"),
        (lambda: Plan.from_yaml("weights:"), "Plan(weights) must be a mapping"),
        (lambda: Plan.from_yaml("weights: {}\nignore: '*.bias'"), "must be a list of patterns"),
        (lambda: Plan.from_yaml("weights: {a: Keep(), a: Keep()}"), "key 'a' must stand once, got it again in line 1"),
        (lambda: Plan.from_yaml("weights: {}\nweights: {}"), "key 'weights' must stand once, got it again in line 2"),
        (lambda: Plan.from_yaml("weights: {}\nignore: [*.bias]"), "line 2; quote patterns that start with '*'"),
        (lambda: Plan.from_yaml("weights: {"), "a plan must be YAML"),
        (lambda: Plan.from_yaml("a: 2001-99-99"), "a plan must be YAML"),
        (lambda: Plan.from_yaml("\x00"), "a plan must be YAML"),
        (lambda: Plan.from_yaml("!!python/object/apply:os.getcwd []"), "a plan must be YAML"),
        (lambda: Plan.from_yaml("[" * 1500), "a plan must be YAML"),
        (lambda: Plan.from_yaml(3), "a YAML plan must be a text"),
        (lambda: Plan.from_json('{"weights": {"a": "Keep()", "a": "Keep()"}}'), "key 'a' must stand once"),
        (lambda: Plan.from_json("{"), "a plan must be JSON"),
        (lambda: Plan.from_json("[" * 100_000), "a plan must be JSON"),
        (lambda: Plan.from_json('{"weights": {"a": 3}}'), "a compression must be a text"),
    ],
)
def test_a_plan_that_cannot_be_understood_says_why(build, message):
    assert message in refusal(build)


PATTERNS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda p: not p.startswith("re:"))
TEXTS = st.sampled_from(["Keep()", "Keep('float16')", "Keep() + Keep('bfloat16')"])
PLANS = st.builds(Plan, st.dictionaries(PATTERNS, TEXTS, max_size=4), st.lists(PATTERNS, max_size=3))


@given(PLANS)
def test_yaml_json_dict_and_pickle_bring_a_plan_back(plan):
    assert Plan.from_dict(plan.to_dict()) == plan
    assert Plan.from_yaml(plan.to_yaml()) == plan
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan(plan.weights, plan.ignore) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert hash(Plan.from_dict(plan.to_dict())) == hash(plan)


def test_the_order_of_rules_is_part_of_a_plan():
    assert Plan({"a": HALF, "b": HALF}) != Plan({"b": HALF, "a": HALF})


def test_plan_files(tmp_path):
    plan = Plan({"conv*": HALF + BRAIN, "re:fc[12]": EXACT}, ignore=["*.bias"])
    for name, text in (("a.yaml", plan.to_yaml()), ("a.YML", plan.to_yaml()), ("a.json", plan.to_json())):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert Plan.from_file(tmp_path / name) == plan
    assert "cannot be read: No such file" in refusal(lambda: Plan.from_file(tmp_path / "b.yaml"), FileError)
    assert "must be named *.yaml, *.yml or *.json" in refusal(lambda: Plan.from_file(str(tmp_path / "a.toml")))
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "must be UTF-8 text" in refusal(lambda: Plan.from_file(tmp_path / "c.yaml"))
    (tmp_path / "d.yaml").write_text("wieghts: {}")
    assert re.search(r"'weights'\? .* \(plan '.*d.yaml'\)", refusal(lambda: Plan.from_file(tmp_path / "d.yaml")))


@pytest.mark.parametrize("path", sorted(PLAN_FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_plans_load_and_come_back(path):
    plan = Plan.from_file(path)
    assert Plan.from_yaml(plan.to_yaml()) == plan


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "resnet20"])
def test_shipped_plans_fit_their_networks(name):
    network = build(name)
    for tensors in (network, network.state_dict()):
        assert not Plan.from_file(PLAN_FOLDER / f"{name}.yaml").match(tensors).ignored


def test_the_table_lists_every_tensor_once():
    table = str(Plan({"conv*": HALF, "*": BRAIN}).match(Net())).splitlines()
    assert table[0].split() == ["weight", "shape", "rule", "compression"]
    assert [line.split()[0] for line in table[1:]] == list(Net().state_dict())
    row = next(line for line in table if line.startswith("conv1.weight"))
    assert row.split() == ["conv1.weight", "4x1x3x3", "conv*", 'Keep(dtype="float16")']
    assert len({line.index(word) for line, word in zip(table, ["shape", "0-d"], strict=False)}) == 1


def test_the_default_plan_treats_each_weight_by_what_it_can_bear():
    tensors = {
        "matrix": torch.randn(64, 64),
        "small": torch.randn(63, 65),
        "bias": torch.randn(1000),
        "bias16": torch.randn(9, dtype=torch.float16),
        "huge": torch.full((3,), 1e6),
        "tiny": torch.full((3,), 1e-9),
        "broken": torch.tensor([float("nan"), 1.0]),
        "step": torch.tensor(3),
        "bn.running_mean": torch.randn(3),
        "a[1]": torch.randn(64, 64).to(torch.bfloat16),
        "a1": torch.randn(64, 64),
    }
    tensors["again"] = tensors["matrix"]
    plan = default_plan(tensors)
    assert {name: str(c) for name, c in plan.weights.items()} == {
        "matrix": "Quantize(64)",
        "small": 'Keep(dtype="float16")',
        "bias": 'Keep(dtype="float16")',
        "broken": 'Keep(dtype="float16")',
        "a[1]": "Quantize(64)",
        "a1": "Quantize(64)",
    }
    assert plan.ignore == ("bias16", "huge", "tiny")
    matched = plan.match(tensors)
    assert all(task.weights == (task.name,) for task in matched.tasks)
    assert matched.tied == {"again": "matrix"}
    assert default_plan(tensors, free=True).weights["matrix"] == parse('Grid("auto", trellis=True)')


def test_the_default_plan_fits_every_network():
    assert default_plan({}).match({}).tasks == ()
    for network in (Net(), Net().state_dict(), Tied(), Tied().state_dict()):
        default_plan(network).match(network)


def test_yaml_stays_readable():
    plan = Plan({"conv*": "Keep('float16') + Keep()"}, ignore=["*.bias"])
    assert yaml.safe_load(plan.to_yaml()) == json.loads(plan.to_json()) == plan.to_dict()
    assert plan.to_yaml() == "weights:\n  conv*: Keep(dtype=\"float16\") + Keep()\nignore:\n- '*.bias'\n"
