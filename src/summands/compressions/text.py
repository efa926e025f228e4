"""Compressions as text: `parse("Quantize(2) + Prune(keep=0.01)")`; the inverse is `str(compression)`.

The text is read as a Python expression by `ast` and never evaluated: only the names of the package list, `+`, and as
arguments literals and compressions. So a plan from a stranger can name a compression, and nothing else.
"""

from __future__ import annotations

import ast
from dataclasses import MISSING, Field, fields
from typing import NoReturn

from ..errors import ArgumentError, PlanError, in_context, near
from . import COMPRESSIONS
from .compression import Compression

_MAX_LENGTH = 10_000


def parse(text: str) -> Compression:
    """The compression that a text describes; `parse(str(c)) == c` for every compression of the package list.

    Raises:
        PlanError: the text is not a sum of calls of known compressions with literal arguments.
        ArgumentError: an argument is outside its allowed set.

    >>> parse("Keep('float16')")
    Keep(dtype='float16')
    >>> str(parse("Keep() + Keep(dtype='float16')"))
    'Keep() + Keep(dtype="float16")'
    """
    if not isinstance(text, str):
        raise PlanError(f"a compression must be a text like 'Keep(dtype=\"float16\")', got {text!r}")
    if len(text) > _MAX_LENGTH:
        raise PlanError(f"a compression must be at most {_MAX_LENGTH} characters long, got {len(text)}")
    shown = text if len(text) < 80 else text[:80] + "..."
    try:
        with in_context(f"in {shown!r}"):
            return _sum(ast.parse(text.strip(), mode="eval").body)
    except ArgumentError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}, {error}"
        raise PlanError(f"a compression must be an expression like 'A(1) + B(2)', got {shown!r}: {reason}") from error


def _sum(node: ast.expr) -> Compression:
    # Python nests a + b + c to the left: the loop, not recursion, walks down a long sum.
    terms: list[Compression] = []
    while isinstance(node, ast.BinOp):
        if not isinstance(node.op, ast.Add):
            _refuse(node, "joined by '+' alone")
        terms.append(_sum(node.right))
        node = node.left
    total = _call(node)
    for term in reversed(terms):
        total = total + term
    return total


def _call(node: ast.expr) -> Compression:
    known = {kind.__name__: kind for kind in COMPRESSIONS}
    if isinstance(node, ast.Name) and node.id in known:
        raise PlanError(f"{node.id} must be written with its arguments, as {node.id}(...)")
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        _refuse(node, "a sum of calls like Keep(dtype='float16')")
    kind = known.get(node.func.id)
    if kind is None:
        raise PlanError(f"unknown compression {node.func.id!r}; {near(node.func.id, known)}")
    arguments = _arguments(kind, node)
    try:
        return kind(**arguments)
    except ArgumentError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise PlanError(f"{ast.unparse(node)} has an argument of the wrong type: {error}") from error


def _arguments(kind: type[Compression], call: ast.Call) -> dict[str, object]:
    owner, known = kind.__name__, {f.name: f for f in fields(kind) if f.init}
    unnamed = [name for name, field in known.items() if not field.kw_only]
    if len(call.args) > len(unnamed):
        names = ", ".join(f"{name}=" for name in list(known)[len(unnamed) :])
        remedy = f"; name the others: {names}" if names else ""
        raise PlanError(f"{owner} must have at most {len(unnamed)} unnamed arguments, got {len(call.args)}{remedy}")
    given = dict(zip(unnamed, (_literal(node) for node in call.args), strict=False))
    for keyword in call.keywords:
        if keyword.arg not in known:
            if keyword.arg is None:
                _refuse(keyword.value, "a sum of calls without '**'")
            raise PlanError(f"{owner} has no argument {keyword.arg!r}; {near(keyword.arg, known)}")
        if keyword.arg in given:
            raise PlanError(f"{owner} must get {keyword.arg!r} once, got it twice")
        given[keyword.arg] = _literal(keyword.value)
    missing = [name for name, field in known.items() if _is_required(field) and name not in given]
    if missing:
        raise PlanError(f"{owner} needs its argument {missing[0]!r}: {owner}({missing[0]}=...)")
    return given


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _literal(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
            return -value
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return tuple(_element(element) for element in elements)
    _refuse(node, "a number, a string, True, False, None, or a list of these or of compressions, as an argument")


def _element(node: ast.expr) -> object:
    return _sum(node) if isinstance(node, ast.Call | ast.BinOp) else _literal(node)


def _refuse(node: ast.expr, allowed: str) -> NoReturn:
    raise PlanError(f"a compression must be {allowed}, got {ast.unparse(node)!r}")
