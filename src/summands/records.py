"""Plain rows of what happened: written by the loop, read by tables, plots and benchmarks. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Self


class Verdict(Enum):
    """How a compression ended, each with a sentence that says what to do about it."""

    DIRECT = "Compressed directly, without data: train with `train=` to win back what the error lost."
    CONVERGED = "The weights agree with their compressed forms within the tolerance."
    STEPS_USED = (
        "All steps were used and the weights still differ from their forms; the file holds the best iterate. "
        "More steps, or a larger mu at the end, may lower the error."
    )
    CALIBRATED = (
        "Compressed for the inputs that calibration showed to each layer; `result.layers` has their output errors. "
        "Training with `train=` wins back more."
    )
    UNREACHED = (
        "Compressed for calibration inputs, but some weights met none in a linear layer, convolution or embedding: of "
        "these, all entries count alike. See `note` in `result.layers`; give inputs that use them if the network can "
        "(recurrent cells, transposed convolutions, parametrized weights and products by @, einsum or addmm are not "
        "seen), or leave them under `ignore`."
    )
    FINETUNED = "The file holds a fine-tuned iterate: its parts trained while they stayed compressed."
    BUDGET_NOT_FILLED = (
        "The file is more than 1 % below the budget: what the plan leaves open grows in steps longer than the rest, "
        "or would raise the error. Make more hyperparameters 'auto', or add a part such as Prune('auto')."
    )
    DIVERGED = (
        "The loss became NaN or infinite, so the loop stopped; the file holds the best iterate before that. "
        "Lower the learning rate, or clip it to step.max_lr."
    )


@dataclass(frozen=True)
class StepRecord:
    """One row of the history.

    Attributes:
        phase: "reference", "direct", "lc" or "finetune"; "calibrated" and "tuned" in post-training.
        index: number of the step within its phase.
        mu: penalty weight, 0 outside "lc".
        loss: what the learner returned; in post-training the output's distance from the original's, as the layers'
            quadratics have it ("calibrated") or as measured on the calibration inputs ("tuned").
        gap: ||w - Delta|| / ||w|| over all weights of all tasks.
        error: what `evaluate` returned for the compressed network.
        size_bytes: length of the file that holds the compressed network, without metadata.
        learn_seconds, compress_seconds, measure_seconds: L step; C step; encoding, BatchNorm and evaluation.
        best: true of what was kept as the best so far within the budget: the last such row is the file's.
    """

    phase: str
    index: int
    mu: float
    loss: float | None
    gap: float
    error: float | None
    size_bytes: int
    learn_seconds: float
    compress_seconds: float
    measure_seconds: float
    best: bool = False

    def row(self) -> dict[str, Any]:
        """The record as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class LayerRecord:
    """One weight after post-training.

    Attributes:
        relative_error: of its outputs on the calibration inputs, tr(E H E') / tr(W H W'); None where it met none.
        distance: what its error adds to the output's distance, by the layer's quadratic.
        bits_per_weight: estimated.
        inputs: how many it met: rows, places of a convolution, or tokens.
        moments_bytes: that their second moments take.
        note: what had to be done otherwise than asked; "" for nothing.
    """

    name: str
    relative_error: float | None
    distance: float
    bits_per_weight: float
    inputs: int
    moments_bytes: int
    note: str = ""


@dataclass(frozen=True)
class WeightRecord:
    """One tensor of a compressed network.

    Attributes:
        rule: the compression's text, or "kept" for a tensor left as it was.
        parts: (kind of form, its coded bits) for each part.
        relative_error: ||w - Delta||^2 / ||w||^2 against the network that came in; None when that is not known.
        facts: for each part what its form says of itself: rank, kept entries, values of a codebook.
    """

    name: str
    shape: tuple[int, ...]
    rule: str
    parts: tuple[tuple[str, float], ...]
    relative_error: float | None
    facts: tuple[Mapping[str, int | str], ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The record that `asdict` made plain, perhaps through JSON."""
        parts = tuple((str(kind), float(bits)) for kind, bits in row["parts"])
        facts = tuple(row.get("facts", ()))
        return cls(row["name"], tuple(row["shape"]), row["rule"], parts, row["relative_error"], facts)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return sum(bits for _, bits in self.parts) / self.size if self.size else 0.0


@dataclass(frozen=True)
class DeclaredRecord:
    """One tensor as a file's header declares it, before anything is decoded."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    dense_bytes: int


@dataclass(frozen=True)
class FitRecord:
    """How Laplacian a weight is.

    Attributes:
        mean: the mean magnitude 1/lam, the Laplace fit's one parameter.
        kurtosis: E[(w - Ew)^4] / var^2; 6 for a Laplacian, 3 for a Gaussian.
        distance: Kolmogorov and Smirnov's, the largest difference between the weights' distribution and the fit's.
    """

    name: str
    size: int
    mean: float
    kurtosis: float
    distance: float


@dataclass(frozen=True)
class RateRecord:
    """Bits a weight at one distortion, in theory and as coded.

    Attributes:
        name: the weight, or "all": the net, each rate at its own best allocation over the weights.
        distortion: L1 error relative to the L1 norm; of the net, the mean of its weights'.
        laplace: D(R) of the Laplace fit.
        histogram: that of the weights' own histogram (Blahut and Arimoto).
        paper, authors: successive pruning in its two modes.
        embedded: the embedded quantiser.
    """

    name: str
    size: int
    distortion: float
    laplace: float
    histogram: float
    paper: float
    authors: float
    embedded: float


@dataclass(frozen=True)
class RunRecord:
    """One run of a search: a combination at a budget.

    Attributes:
        id: names the run, and its folder.
        combination, budget: as the user reads them, "Q + P" and "20x".
        limit: the most bytes that the file may have.
        status: "started", "finished", "stopped" (early, as it was overtaken) or "failed".
        message: why it stopped or failed; of a finished one the verdict's name.
        error: the least error measured on an iterate within the budget; None without `evaluate`.
        size_bytes: length of that iterate's file, without metadata; None before there is any.
        seconds: of all its steps.
        total: how many steps it is to take.
        weights: of a finished run, one record a tensor.
        history: one record a step.
    """

    id: str
    combination: str
    budget: str
    limit: int
    status: str
    message: str = ""
    error: float | None = None
    size_bytes: int | None = None
    seconds: float = 0.0
    total: int = 0
    weights: tuple[WeightRecord, ...] = ()
    history: tuple[StepRecord, ...] = ()

    @property
    def is_done(self) -> bool:
        """True when nothing is left to do: resuming does not start it again."""
        return self.status in ("finished", "stopped")


@dataclass(frozen=True)
class SearchRecord:
    """What all runs of a search share: the network as it came.

    Attributes:
        name: of the network's task.
        task: a digest of the task file.
        reference_bytes: bytes of its tensors, in their own dtypes.
        reference_error: what `evaluate` says of it; None without `evaluate`.
        limits: for each compressed weight points (D, R) of its rate-distortion function: squared error over ||w||^2,
            and bits a weight.
    """

    name: str
    task: str
    reference_bytes: int
    reference_error: float | None
    limits: Mapping[str, tuple[tuple[float, float], ...]]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The record that `asdict` made plain, perhaps through JSON."""
        limits = {name: tuple((float(d), float(r)) for d, r in points) for name, points in row["limits"].items()}
        return cls(row["name"], row["task"], row["reference_bytes"], row["reference_error"], limits)


@dataclass(frozen=True)
class LimitRecord:
    """One tensor of a file beside the limits at the error that it has. Bits an entry.

    Attributes:
        kind: of its form.
        bits_per_weight: measured.
        relative_error: ||w - Delta||^2 / ||w||^2.
        rate_distortion: of the empirical histogram, by Blahut and Arimoto.
        shannon: Shannon's lower bound of that histogram.
        laplace: the same of a Laplace source of this variance.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    bits_per_weight: float
    relative_error: float
    rate_distortion: float
    shannon: float
    laplace: float
