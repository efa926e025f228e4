"""Residual planes: a sum of codebooks is one codebook of all sums of their values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..forms import Codebook, Form
from ..forms.codebook import codes_dtype
from .codebook_fit import as_entries, nearest_form, optimal_values
from .partition import points_of
from .quantize import Quantize
from .stored import rounded

_SAMPLE = 20_000
_MOST_SUMS = 4096
_TURNS = 200


def fitted_planes(terms: Sequence[Quantize], weights: Mapping[str, Tensor]) -> list[Mapping[str, Form]] | None:
    """For each codebook its forms by weight, near the joint optimum; None for more than 4,096 sums, or other scopes.

    In turn, every entry takes the nearest sum, and all values of all codebooks are fitted by least squares together:
    Lloyd's algorithm on the sums. Block descent moves one codebook at a time, and stays for long on plateaus where
    only several together could move. From two starts, on at most 20,000 order statistics. Not exact.
    """
    if any(term.k == "auto" or term.zero or term.per != "weight" for term in terms):
        return None
    counts = [int(term.k) for term in terms]
    if np.prod(counts, dtype=float) > _MOST_SUMS:
        return None
    forms = {name: _planes(weight, terms, counts) for name, weight in weights.items()}
    return [{name: planes[k] for name, planes in forms.items()} for k in range(len(terms))]


def _planes(weight: Tensor, terms: Sequence[Quantize], counts: list[int]) -> list[Codebook]:
    ordered = np.sort(as_entries(weight.detach().cpu().reshape(-1))).astype(np.float64)
    stride = -(-ordered.size // _SAMPLE) or 1
    sample = ordered[stride // 2 :: stride]
    choice = np.array(list(itertools.product(*map(range, counts))))
    starts = (_residual_start(sample, counts), _even_start(sample, counts))
    books = min((_lloyd(sample, choice, start) for start in starts), key=lambda found: found[0])[1]
    stored = [rounded(torch.from_numpy(b), t.dtype, weight.dtype) for b, t in zip(books, terms, strict=True)]
    sums = sum(book.to(torch.float64).numpy()[choice[:, k]] for k, book in enumerate(stored))
    order = np.argsort(sums, kind="stable")
    nearest = nearest_form(weight, [sums[order]], "weight", None)
    table = torch.from_numpy(choice[order]).to(weight.device)
    which = nearest.codes.long()
    return [
        replace(nearest, values=book.to(weight.device), codes=table[:, k][which].to(codes_dtype(counts[k])))
        for k, book in enumerate(stored)
    ]


def _residual_start(sample: np.ndarray, counts: list[int]) -> np.ndarray:
    """Each codebook optimal for what those before it left."""
    books, left = [], sample
    for k in counts:
        values = optimal_values(points_of(left), k)
        books.append(np.pad(values, (0, k - len(values)), mode="edge"))
        left = left - values[np.searchsorted((values[1:] + values[:-1]) / 2, left)]
    return np.concatenate(books)


def _even_start(sample: np.ndarray, counts: list[int]) -> np.ndarray:
    """Digits: all sums evenly spaced over three deviations."""
    step, books = 1.0, []
    for k in reversed(counts):
        books.append(step * (np.arange(k) - (k - 1) / 2))
        step *= k
    digits = np.concatenate(books[::-1]) * (6 * (sample.std() if sample.size else 0.0) / step)
    digits[: counts[0]] += sample.mean() if sample.size else 0.0
    return digits


def _lloyd(sample: np.ndarray, choice: np.ndarray, books: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """(error, codebooks): the sums' values and the entries' sums in turn, from these codebooks, one after another."""
    counts = choice.max(0) + 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    design = np.zeros((len(choice), starts[-1]))
    for k, start in enumerate(starts[:-1]):
        design[np.arange(len(choice)), start + choice[:, k]] = 1.0
    before = np.inf
    for _ in range(_TURNS):
        sums = design @ books
        order = np.argsort(sums, kind="stable")
        ascending = sums[order]
        code = order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, sample)]
        error = float(((sample - sums[code]) ** 2).sum())
        if not error < before * (1 - 1e-6):
            break
        before = error
        held = np.bincount(code, minlength=len(choice))
        total = np.bincount(code, weights=sample, minlength=len(choice))
        root = np.sqrt(held)
        target = np.divide(total, root, out=np.zeros_like(total), where=held > 0)
        books = books + np.linalg.lstsq(design * root[:, None], target - root * sums, rcond=None)[0]
    return before, [books[a:b] for a, b in itertools.pairwise(starts)]
