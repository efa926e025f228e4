"""The list that every compression joins by one line."""

from dataclasses import dataclass

from oracles import (
    Oracle,
    ball,
    codebook,
    entropy_priced,
    exact,
    in_runs,
    kept,
    levels,
    multiples,
    outside,
    path,
    pruned_codebook,
    scaled,
    shrunk,
)

from summands.compressions import (
    Auto,
    Binary,
    Compression,
    Embedded,
    FixedCodebook,
    Grid,
    Keep,
    L1Ball,
    LowRank,
    PowersOfTwo,
    Prune,
    PruneBy,
    PruneNM,
    PrunePenalty,
    Quantize,
    ScaledBinary,
    ScaledCodebook,
    ScaledGrid,
    ScaledTernary,
    SoftThreshold,
    Successive,
    Ternary,
    Transform,
    Tucker,
)


@dataclass(frozen=True)
class Case:
    """A compression and what the suite must know of it.

    Attributes:
        oracle: brute force on a vector; for per="row", "channel" and "task" the suite applies it as that says. None
            where the compression claims no optimum.
        ndim: the least number of dimensions of a weight that it accepts.
        weighted: it accepts an importance.
        mu, price: passed to each projection.
        largest: the largest entry that it accepts.
        shrinks: it moves its own forms on towards zero, as a penalty of a norm or a price does.
    """

    compression: Compression
    oracle: Oracle | None = None
    ndim: int = 0
    weighted: bool = True
    mu: float | None = None
    price: float | None = None
    largest: float = float("inf")
    shrinks: bool = False

    def __str__(self) -> str:
        return str(self.compression)


CASES = [
    Case(Keep(), exact),
    Case(Keep("float16")),
    Case(Prune(count=2), kept(2)),
    Case(Prune(keep=0.4, dtype="bfloat16")),
    Case(Prune(count=1, per="row"), kept(1), ndim=1),
    Case(Prune(count=3, per="task"), kept(3)),
    Case(Quantize(1), codebook(1)),
    Case(Quantize(2), codebook(2)),
    Case(Quantize(3), codebook(3)),
    Case(Quantize(2, dtype="float16")),
    Case(Quantize(2, per="row"), codebook(2), ndim=1),
    Case(Quantize(2, per="channel"), codebook(2), ndim=2),
    Case(Quantize(2, per="task"), codebook(2)),
    Case(Quantize(2, zero=True), codebook(2, zero=True)),
    Case(Quantize(3, zero=True), codebook(3, zero=True)),
    Case(Quantize(3, zero=True, keep=0.5), pruned_codebook(3, 0.5), weighted=False),
    Case(Quantize("auto"), price=1e-3, shrinks=True),
    Case(Quantize("auto", zero=True, keep=0.5, dtype="float16"), price=1e-3, shrinks=True),
    Case(Quantize("auto", per="row"), ndim=1, price=1e-3),
    Case(FixedCodebook([-1.0, 0.25, 2.0]), levels(-1.0, 0.25, 2.0)),
    Case(Binary(), levels(-1, 1)),
    Case(Ternary(), levels(-1, 0, 1)),
    Case(PowersOfTwo(2), levels(-1, -0.5, -0.25, 0, 0.25, 0.5, 1)),
    Case(ScaledBinary(), scaled(-1, 1)),
    Case(ScaledBinary(per="row", dtype="float16"), ndim=1),
    Case(ScaledTernary(), scaled(-1, 0, 1)),
    Case(ScaledTernary(per="channel"), scaled(-1, 0, 1), ndim=2),
    Case(ScaledCodebook([-1.0, 0.5, 2.0]), scaled(-1, 0.5, 2)),
    Case(ScaledCodebook([1.0, 3.0]), scaled(1, 3)),
    Case(Grid(0.5), multiples(0.5), largest=5e5),
    Case(Grid(0.5, dead_zone=1.25, per="task"), multiples(0.5, unless_zero=0.375), largest=5e5, shrinks=True),
    Case(Grid(0.25, dtype="float16"), price=0.01, largest=2e5, shrinks=True),
    Case(Grid("auto"), price=0.01, shrinks=True),
    Case(ScaledGrid(0.5), multiples(0.5), ndim=2, largest=5e5),
    Case(ScaledGrid("auto", per="row", dtype="float16"), ndim=1, price=0.01, largest=2e5, shrinks=True),
    Case(ScaledGrid(0.5, trellis=True), ndim=2, largest=5e5, shrinks=True),
    Case(ScaledGrid("auto", per="row", trellis=True), ndim=1, price=0.01, shrinks=True),
    Case(Grid(0.5, trellis=True), path(0.5), largest=5e5),
    Case(Grid("auto", trellis=True, dtype="float16"), price=0.01, largest=6e10, shrinks=True),
    Case(Grid(bits_per_weight=4.0), shrinks=True),
    Case(Grid(bits_per_weight=3, trellis=True), shrinks=True),
    Case(Prune("auto"), entropy_priced(1e-3, 54), price=1e-3),
    Case(Prune(count=4, groups="row"), ndim=1),
    Case(Prune(keep=0.5, groups="block(1, 2)", dtype="float16"), ndim=1),
    Case(Prune(count=3, groups="channel", per="task"), ndim=2),
    Case(PrunePenalty(0.1), outside(1.0, lambda vector, importance: float(importance @ vector**2), price=0.1), mu=2.0),
    Case(PruneBy("global", keep=0.5), weighted=False),
    Case(PruneBy("erk", keep=0.4, dtype="float16"), weighted=False),
    Case(PruneNM(1, 2), in_runs(2, kept(1))),
    Case(L1Ball(0.5), ball(0.5)),
    Case(L1Ball(0.5, per="row"), ball(0.5), ndim=1),
    Case(L1Ball(0.5, groups="row"), ndim=1, weighted=False),
    Case(SoftThreshold(0.1), shrunk(0.1), mu=2.0, shrinks=True),
    Case(SoftThreshold(0.1, groups="channel", dtype="bfloat16"), ndim=2, weighted=False, mu=2.0, shrinks=True),
    Case(LowRank(1), ndim=1),
    Case(LowRank(1, view="kernel", dtype="float16"), ndim=4),
    Case(LowRank("auto", view="auto", alpha=0.01), ndim=1, mu=2.0),
    Case(Tucker("auto", dtype="float16"), ndim=4, weighted=False, price=1e-3),
    Case(Successive(sparsity=0.5), weighted=False, shrinks=True),
    Case(Successive(bits_per_weight=4.0, mode="authors", per="task"), weighted=False, shrinks=True),
    Case(Embedded(0.5), weighted=False, largest=5e5),
    Case(Embedded(bits_per_weight=3.0, dtype="bfloat16"), weighted=False, shrinks=True),
    Case(Transform(terms=2, basis="chebyshev", dtype="float16"), ndim=1, weighted=False),
    Case(Transform(count=2), ndim=1, weighted=False),
    Case(Prune("auto", dtype="float16") + LowRank("auto", dtype="float16"), ndim=1, price=1e-3),
    Case(LowRank("auto", view="kernel", dtype="float16") + LowRank("auto", dtype="float16"), ndim=4, price=1e-3),
    Case(Quantize(2) + Prune(count=1), outside(1, codebook(2)), weighted=False),
    Case(Prune(keep=0.4) + Quantize(1), outside(0.4, codebook(1)), weighted=False),
    Case(Quantize(2) + PrunePenalty(0.25), outside(1.0, codebook(2), price=0.5), weighted=False, mu=1.0),
    Case(ScaledBinary() + Prune(count=2), outside(2, scaled(-1, 1)), weighted=False),
    Case(ScaledBinary() + PrunePenalty(0.25), outside(1.0, scaled(-1, 1), price=0.5), weighted=False, mu=1.0),
    Case(Ternary() + Prune(count=1), outside(1, levels(-1, 0, 1)), weighted=False),
    Case(Prune(count=1, per="row") + Quantize(2, per="row"), outside(1, codebook(2)), ndim=1, weighted=False),
    Case(Quantize(2) + Prune(count=2, per="task", dtype="float16")),
    Case(ScaledTernary() + Prune(count=1)),
    Case(Quantize(2) + Quantize(3, dtype="bfloat16")),
    Case(LowRank(1) + Prune(count=1), ndim=1, weighted=False),
    Case(Auto([Prune("auto"), LowRank("auto", dtype="float16")]), ndim=1, price=1e-3, shrinks=True),
    Case(Auto([Quantize("auto"), Quantize("auto") + Prune("auto"), Keep()]), price=1e-3, shrinks=True),
]

# Limits: what these return is the weight itself, or zero, whatever the weight.
EXACT = [Keep(), Prune(keep=1.0), Prune(count=99), Quantize(64), LowRank(99), Quantize(1) + Prune(keep=1.0)]
NOTHING = [Prune(keep=0.0), Prune(count=0), LowRank(0)]
