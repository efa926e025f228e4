"""Which weights get which compression: ordered patterns, and the tasks that they make of a network.

A pattern is, in this order of meaning, the name of a weight (that weight alone), a glob ("conv*") or "re:" and a
regular expression for the name of a weight or of the module that owns it, or the class name of that module ("Conv2d").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from .compressions import Auto, Compression
from .compressions.text import parse
from .domain import Domain, Entry, Tensors, check_pattern
from .errors import ArgumentError, FileError, PlanError, in_context, must, near

Choice = Compression | str | Sequence[Compression | str]
"""A compression, its text, or a list of either to choose among (`Auto`)."""


@dataclass(frozen=True)
class Task:
    """What one rule makes of all the weights that it matches: they are compressed together, under the rule's name."""

    name: str
    weights: tuple[str, ...]
    compression: Compression

    def pieces(self) -> list[tuple[str, ...]]:
        """The weights one by one, or all together if something is fitted over all of them."""
        if any(part.per == "task" for part in self.compression.reach()):
            return [self.weights]
        return [(name,) for name in self.weights]


@dataclass(frozen=True)
class Rule:
    """A pattern and the compression of whatever it matches first."""

    pattern: str
    compression: Compression

    def __post_init__(self) -> None:
        check_pattern(self.pattern)


@dataclass(frozen=True, init=False)
class Plan:
    """Ordered rules, pattern to compression: a weight obeys the first rule that matches it.

    Args:
        weights: pattern to compression, or to its text ("Quantize(2) + Prune(keep=0.01)"), or to a list of either:
            the candidates that a budget chooses among, weight by weight, as `Auto` does.
        ignore: patterns of weights to keep exactly. They win over every rule.

    Raises:
        PlanError: a pattern or a text cannot be understood.

    >>> from torch import nn
    >>> plan = Plan({"0": "Keep('bfloat16')", "*": "Keep('float16')"}, ignore=["*.bias"])
    >>> print(plan.match(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))))
    weight    shape  rule    compression
    0.weight  2x3    0       Keep(dtype="bfloat16")
    0.bias    2      *.bias  kept exactly: ignored
    1.weight  1x2    *       Keep(dtype="float16")
    1.bias    1      *.bias  kept exactly: ignored
    """

    rules: tuple[Rule, ...]
    ignore: tuple[str, ...]

    def __init__(self, weights: Mapping[str, Choice], ignore: Sequence[str] = ()) -> None:
        if not isinstance(weights, Mapping):
            raise PlanError(must("Plan(weights)", "a mapping from pattern to compression", weights))
        if isinstance(ignore, str) or not isinstance(ignore, Sequence):
            raise PlanError(must("Plan(ignore=...)", "a list of patterns", ignore))
        for pattern in ignore:
            check_pattern(pattern)
        object.__setattr__(self, "rules", tuple(_rule(pattern, value) for pattern, value in weights.items()))
        object.__setattr__(self, "ignore", tuple(ignore))

    @property
    def weights(self) -> dict[str, Compression]:
        """Pattern to compression, in order."""
        return {rule.pattern: rule.compression for rule in self.rules}

    def match(self, tensors: Tensors) -> Matched:
        """The tasks that this plan makes of a module's parameters, or of a checkpoint {name: tensor}.

        Rules see floating tensors with at least one dimension and one entry. All others, and the buffers (in a
        checkpoint: the tensors named like BatchNorm's statistics), are kept exactly and listed. A tensor under
        several names is one weight, under its first name; any of its names may match.

        Raises:
            PlanError: a pattern matches nothing, or no rule matches a weight that is not ignored.
        """
        domain = Domain(tensors)
        chosen: dict[str, str] = {}  # weight -> the pattern that decided on it
        for pattern in self.ignore:
            found = domain.find(pattern)
            if not found:
                raise PlanError(f"ignore pattern {pattern!r} matches no tensor; {domain.remedy(pattern)}")
            for entry in found:
                if entry.kept is None:
                    chosen.setdefault(entry.name, pattern)
        ignored = dict(chosen)
        tasks = []
        for rule in self.rules:
            found = [entry for entry in domain.find(rule.pattern) if entry.kept is None]
            names = tuple(entry.name for entry in found if entry.name not in chosen)
            if not names:
                raise PlanError(_why_idle(rule.pattern, found, chosen, domain))
            chosen.update(dict.fromkeys(names, rule.pattern))
            tasks.append(Task(rule.pattern, names, rule.compression))
        open_ = [entry.name for entry in domain.entries if entry.kept is None and entry.name not in chosen]
        if open_:
            raise PlanError(
                f"no rule matches {_listed(open_)}; add a rule, or list under `ignore` what to keep exactly"
            )
        return Matched(
            tasks=tuple(tasks),
            ignored=tuple(ignored),
            kept={entry.name: entry.kept for entry in domain.entries if entry.kept is not None},
            tied={alias: entry.name for entry in domain.entries for alias in entry.aliases},
            rows=tuple(row for entry in domain.entries for row in _rows(entry, chosen, ignored, self.weights)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the content of a plan file; `from_dict` is the inverse."""
        return {"weights": {r.pattern: str(r.compression) for r in self.rules}, "ignore": list(self.ignore)}

    @classmethod
    def from_dict(cls, data: object) -> Plan:
        """The plan of {"weights": {pattern: text}, "ignore": [pattern, ...]}; PlanError for anything else."""
        if not isinstance(data, Mapping):
            raise PlanError(must("a plan", "a mapping with the key 'weights'", data))
        allowed = ("weights", "ignore")
        for key in data:
            if key not in allowed:
                raise PlanError(f"a plan has no key {key!r}; {near(str(key), allowed)} (allowed: 'weights', 'ignore')")
        if "weights" not in data:
            raise PlanError("a plan needs the key 'weights': a mapping from pattern to compression")
        ignore = data.get("ignore")
        return cls(data["weights"], () if ignore is None else ignore)

    def to_yaml(self) -> str:
        """The text of a YAML plan file; `from_yaml` is the inverse."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=10_000)

    @classmethod
    def from_yaml(cls, text: str) -> Plan:
        """The plan in a YAML text, loaded safely; a key given twice is an error.

        >>> Plan.from_yaml("weights: {'fc*': Keep('float16')}").weights
        {'fc*': Keep(dtype='float16')}
        """
        return cls.from_dict(_loaded("YAML", text, lambda: yaml.load(text, Loader=_StrictLoader)))

    def to_json(self) -> str:
        """The text of a JSON plan file; `from_json` is the inverse."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan in a JSON text; a key given twice is an error."""
        return cls.from_dict(_loaded("JSON", text, lambda: json.loads(text, object_pairs_hook=_without_repeats)))

    @classmethod
    def from_file(cls, path: str | Path) -> Plan:
        """The plan in a .yaml, .yml or .json file; FileError if it cannot be read."""
        path = Path(path)
        readers = {".yaml": cls.from_yaml, ".yml": cls.from_yaml, ".json": cls.from_json}
        if path.suffix.lower() not in readers:
            raise PlanError(must("a plan file", "named *.yaml, *.yml or *.json", str(path)))
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise FileError(f"plan {str(path)!r} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"plan {str(path)!r} must be UTF-8 text: {error.reason}") from error
        with in_context(f"plan {str(path)!r}"):
            return readers[path.suffix.lower()](text)


@dataclass(frozen=True)
class Row:
    """A line of the match table: a tensor, the pattern that decided on it ("-" for none), and what becomes of it."""

    weight: str
    shape: tuple[int, ...]
    dtype: str
    rule: str
    compression: str


@dataclass(frozen=True)
class Matched:
    """What a plan makes of one network. `str()` is the match table.

    Attributes:
        tasks: one for every rule, in order.
        ignored: the weights that `ignore` keeps exactly.
        kept: every tensor that no rule may match, with the reason ("buffer", "int64", "empty" ...).
        tied: every further name of a tensor with several, to its first name.
        rows: the match table, in the network's order.
    """

    tasks: tuple[Task, ...]
    ignored: tuple[str, ...]
    kept: Mapping[str, str]
    tied: Mapping[str, str]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [("weight", "shape", "rule", "compression")]
        lines += [(r.weight, "x".join(map(str, r.shape)) or "0-d", r.rule, r.compression) for r in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(3)]
        return "\n".join(
            "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[3]]) for line in lines
        )


LEAST_MATRIX = 4096
"""From so many entries on a matrix or kernel is worth a codebook in `default_plan`."""


def default_plan(tensors: Tensors, *, free: bool = False) -> Plan:
    """The plan of those who have none: needs no data and is safe for the accuracy.

    Matrices and kernels of at least 4,096 entries get `Quantize(64)` each, or, when a budget is to choose (`free`),
    `Grid("auto", trellis=True)`, which fills any. All others are stored as float16 where that is a saving and moves
    them by less than 2^-10 of their norm, and are kept exactly otherwise. Fewer than 64 values are not safe without
    data: in a trial 64, 32 and 16 left 92, 69 and 52 % of EfficientNet-Lite0's top-1 answers as they were, though
    LeNets bear 16.

    >>> print(default_plan({"w": torch.ones(64, 64), "b": torch.ones(64)}).to_yaml())
    weights:
      w: Quantize(64)
      b: Keep(dtype="float16")
    ignore: []
    """
    weights: dict[str, str] = {}
    ignore: list[str] = []
    for entry in Domain(tensors).entries:
        if entry.kept is not None:
            continue
        if entry.tensor.ndim >= 2 and entry.tensor.numel() >= LEAST_MATRIX:
            weights[entry.name] = 'Grid("auto", trellis=True)' if free else "Quantize(64)"
        elif _is_half_enough(entry.tensor):
            weights[entry.name] = 'Keep(dtype="float16")'
        else:
            ignore.append(entry.name)
    return Plan(weights, ignore)


def _is_half_enough(tensor: Tensor) -> bool:
    if tensor.dtype.itemsize <= 2:
        return False
    wide = tensor.detach().to(torch.float64)
    moved = (wide - tensor.detach().to(torch.float16).to(torch.float64)).norm()
    # NaN and infinity go on to the projection, which refuses them by name.
    return not bool(torch.isfinite(wide).all()) or bool(moved <= 2.0**-10 * wide.norm())


def _rule(pattern: str, value: Choice) -> Rule:
    with in_context(f"for {pattern!r}"):
        if isinstance(value, list | tuple):
            return Rule(pattern, Auto(value))
        return Rule(pattern, value if isinstance(value, Compression) else parse(value))  # type: ignore[arg-type]


def _why_idle(pattern: str, found: list[Entry], chosen: Mapping[str, str], domain: Domain) -> str:
    """What to say of a rule that is left without a weight."""
    if found:
        earlier = ", ".join(map(repr, dict.fromkeys(chosen[entry.name] for entry in found)))
        return f"pattern {pattern!r} gets no weight: {earlier} took all that it matches; move it up or remove it"
    if kept := domain.find(pattern):
        reasons = _listed([f"{entry.name} ({entry.kept})" for entry in kept])
        return f"pattern {pattern!r} matches only tensors that are always kept exactly: {reasons}; remove it"
    return f"pattern {pattern!r} matches no weight; {domain.remedy(pattern)}"


def _rows(
    entry: Entry, chosen: Mapping[str, str], ignored: Mapping[str, str], compressions: Mapping[str, Compression]
) -> Iterable[Row]:
    rule = chosen.get(entry.name, "-")
    if entry.kept is not None or entry.name in ignored:
        text = f"kept exactly: {entry.kept or 'ignored'}"
    else:
        text = str(compressions[rule])
    shape, dtype = tuple(entry.tensor.shape), str(entry.tensor.dtype).removeprefix("torch.")
    yield Row(entry.name, shape, dtype, rule, text)
    for alias in entry.aliases:
        yield Row(alias, shape, dtype, rule, f"is {entry.name}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(repr, names[:8])) + more


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise PlanError(
                        f"key {key.value!r} must stand once, got it again in line {key.start_mark.line + 1}"
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise PlanError(f"key {repeated!r} must stand once, got it twice")
    return found


def _loaded(language: str, text: str, load: Callable[[], object]) -> object:
    if not isinstance(text, str):
        raise PlanError(must(f"a {language} plan", "a text", type(text).__name__))
    try:
        return load()
    except ArgumentError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        remedy = "; quote patterns that start with '*'" if "alias" in f"{error.context} {error.problem}" else ""
        raise PlanError(f"a plan must be {language}: {error.problem}{line}{remedy}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise PlanError(f"a plan must be {language}: {' '.join(str(error).split())}") from error
