"""`compress` and `prune`: the library's door, with `load` beside it. cli.py is the other door to the same functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .arguments import check_posttraining, check_resume, check_tensors, check_training
from .errors import ArgumentError, BudgetError, must
from .forms import Dense, Form, relative_error
from .lc import (
    Checkpoint,
    Evaluate,
    Loop,
    PostTrainer,
    PostTraining,
    Pruning,
    Schedule,
    Train,
    TrainingLearner,
    error_of,
    run_levels,
    smallest_within,
)
from .lc.passes import c_step, c_step_within
from .network import copied, state_tensors
from .plan import Matched, Plan
from .recipe import recipe_of, versions
from .records import StepRecord, Verdict
from .result import Result
from .runs import recorded_runs
from .selection import Budget, Limit, flops_limit, is_free, priced_by_flops
from .sensitivity import Importance, by_weight


def compress(
    model: nn.Module | Mapping[str, Tensor],
    plan: Plan,
    *,
    budget: Budget | int | str | None = None,
    calibration: Iterable[Any] | None = None,
    posttraining: PostTraining | None = None,
    train: Train | None = None,
    evaluate: Evaluate | None = None,
    inputs: Iterable[Any] = (),
    schedule: Schedule | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    state: Callable[[], Any] | None = None,
    load_state: Callable[[Any], None] | None = None,
    report: Callable[[Any], None] = lambda row: None,
    importance: Importance | None = None,
    drop_runs: int = 4,
) -> Result:
    """Compresses a trained network: directly; for some of its inputs; or by Learning-Compression with your training.

    Args:
        model: a module, which is not changed; or the tensors of a checkpoint by name (direct compression only).
        plan: which weights get what.
        budget: the most that the file may take: bytes, or "60 kB", "20x", "2.5 bits" (a weight); or that running the
            network in factors may, "10 MFLOPs"; or "0.005 drop", the smallest file whose error by `evaluate` is at most
            so much above the network's own. It decides every hyperparameter that the plan leaves "auto", and every
            choice among candidates, all by one price (docs/choosing.md).
        calibration: batches of the model's input, without labels: tensors, tuples of positional arguments or mappings
            of keyword arguments, in a list or a DataLoader. Every layer is then compressed for the inputs it meets
            (docs/posttraining.md), within a budget of bytes if one is given.
        posttraining: how they are used.
        train: your own training loop `train(model, penalty, step)`: it adds `penalty()` to its loss and trains for
            `step.epochs`, with a learning rate of at most `step.max_lr`. `SGD(data)` is a ready-made one.
        evaluate: the error of a model on validation data, to be small; decides which iterate is kept.
        inputs: batches likewise, for BatchNorm statistics; needed if the model has BatchNorm and is trained, and for a
            budget of FLOPs.
        schedule: how mu grows, how long to train, and how the budget tightens.
        seed: all randomness derives from it.
        checkpoint: a file that is rewritten after every step.
        resume: go on from that file if it exists; the bytes are those of an uninterrupted run.
        state, load_state: save and restore what your `train` keeps between steps, if it keeps anything.
        report: called with a StepRecord after every step, and a LayerRecord for every layer in post-training.
        importance: how much the squared errors of a weight matter: a number, or one for each entry (`sensitivity`); or
            "relative", over the weight's squared norm, which suits layers that BatchNorm follows, to which scale is
            nothing. Weights left out count 1. With `train` numbers alone; the penalty's mu is multiplied by them.
        drop_runs: with a budget of "... drop" and `train`, the most trained runs.

    Raises:
        PlanError: the plan does not fit the model. BudgetError: the budget cannot be met, or nothing is "auto".
        WeightError: a weight is not finite. CalibrationError: `calibration` cannot be used.
        TrainingError: `train` or `evaluate` broke its contract.
        MismatchError: the checkpoint belongs to another run.

    >>> import torch, summands as sm
    >>> model = torch.nn.Linear(20, 10)
    >>> result = sm.compress(model, sm.Plan({"weight": "Quantize(2) + Prune(keep=0.05)"}, ignore=["bias"]))
    >>> result.verdict.name, result.forms["weight"].dense().shape
    ('DIRECT', torch.Size([10, 20]))
    """
    if not isinstance(plan, Plan):
        raise ArgumentError(must("plan", "a Plan", plan, "Plan({pattern: compression}), or Plan.from_file(path)"))
    matched = plan.match(model)
    if isinstance(model, nn.Module):
        reference = state_tensors(model)
    else:
        reference = {name: t.detach() for name, t in model.items() if name not in matched.tied}
    wanted = None if budget is None else Budget.of(budget)
    compressed = {name: reference[name] for task in matched.tasks for name in task.weights}
    weighting = None if importance is None else by_weight(importance, compressed, numbers=train is not None)
    if not isinstance(model, nn.Module):
        check_tensors(
            train=train,
            evaluate=evaluate,
            calibration=calibration is not None,
            posttraining=posttraining,
            schedule=schedule,
            inputs=inputs != (),
            checkpoint=checkpoint,
            resume=resume,
            state=state,
            load_state=load_state,
            budget=wanted and wanted.needs_model,
        )
        limit = _limit(wanted, matched, reference)
        return _direct(reference, matched, limit, weighting, recipe_of(plan, limit, None, 0, importance=importance))
    check_training(model, train, inputs, schedule, checkpoint)
    check_resume(checkpoint, resume, state, load_state)
    check_posttraining(
        calibration, posttraining, wanted, train=train, importance=importance, inputs=None if inputs == () else inputs
    )
    if wanted is not None and wanted.flops is not None:
        runs = recorded_runs(copied(model), inputs)
        matched = replace(matched, tasks=tuple(priced_by_flops(matched.tasks, runs)))
        limit = _limited(flops_limit(wanted.flops, runs), matched, reference)
    else:
        limit = _limit(wanted, matched, reference)
    if calibration is not None:
        options = posttraining or PostTraining()
        trainer = PostTrainer(
            model=copied(model),
            tasks=matched.tasks,
            calibration=calibration,
            options=options,
            limit=limit,
            seed=seed,
            evaluate=evaluate,
            report=report,
        )
        network, history, layers, verdict = trainer.run()
        recipe = {**recipe_of(plan, limit, None, seed), "posttraining": options.to_dict(), "seed": seed}
        result = _result(network, matched, reference, history, verdict, limit, recipe)
        return replace(result, layers=tuple(layers))
    schedule = schedule or Schedule()
    if schedule.budget_start > 1 and wanted is None:
        raise ArgumentError(must("budget", "given where the schedule has a `budget_start`", None))
    drop = None if wanted is None else wanted.max_drop
    recipe = recipe_of(plan, limit, schedule if train else None, seed, drop, importance)

    def loop(price: float | None, within: Limit | None) -> Loop:
        own = copied(model)
        path = None if checkpoint is None or price is not None else Path(checkpoint)
        if path is not None and limit is None and within is not None:  # one of several runs
            path = path.with_name(f"{path.name}.{within.most}")
        return Loop(
            model=own,
            tasks=matched.tasks,
            learner=TrainingLearner(own, train, weighting) if train is not None and price is None else None,
            schedule=schedule,
            evaluate=evaluate,
            inputs=inputs,
            limit=within,
            price=price,
            importance=weighting,
            seed=seed,
            checkpoint=None if path is None else Checkpoint(path, recipe, reference, state, load_state),
            report=report,
        )

    if wanted is not None and wanted.max_drop is not None:
        if evaluate is None:
            raise BudgetError(must("evaluate", "given for a budget of max_drop", None))
        _check_free(matched, reference, f"the budget is {wanted}", Limit(0))
        before = error_of(evaluate, copied(model), "reference")
        price = sum(float(reference[n].double().square().sum()) for t in matched.tasks for n in t.weights)
        price = price / (8 * _bytes(reference)) or 1.0
        tries = 0 if train is None else drop_runs
        found = smallest_within(loop, before + wanted.max_drop, price, runs=tries, resume=resume)
        recipe = {**recipe, "reference_error": before, "tried": found.tried}
        return _result(found.network, matched, reference, found.history, found.verdict, None, recipe)
    network, history, verdict = loop(None, limit).run(resume=resume)
    return _result(network, matched, reference, history, verdict, limit, recipe)


def prune(
    model: nn.Module,
    plan: Callable[[float], Plan],
    pruning: Pruning,
    *,
    train: Train,
    evaluate: Evaluate | None = None,
    inputs: Iterable[Any] = (),
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    state: Callable[[], Any] | None = None,
    load_state: Callable[[Any], None] | None = None,
    report: Callable[[StepRecord], None] = lambda row: None,
) -> list[Result]:
    """Prunes a trained network in levels, retraining what is left after each: a result for every level.

    Args:
        model: a module, which is not changed.
        plan: the share of zeros of a level -> which weights get what.
        pruning: the levels, and how long to train at each.
        train: your own training loop, as for `compress`; `penalty()` is 0 and `step.mu` too.
        checkpoint: a folder for a file of each level, rewritten after every step; removed by nobody but you.
        evaluate, inputs, seed, resume, state, load_state, report: as for `compress`. Of each level the best iterate on
            `evaluate` is kept, and goes on to the next.

    Raises:
        As `compress`.

    >>> import torch, summands as sm
    >>> model = torch.nn.Linear(20, 10)
    >>> data = torch.randn(64, 20), torch.randint(10, (64,))
    >>> plan = lambda sparsity: sm.Plan({"weight": sm.PruneBy("lamp", keep=1 - sparsity)}, ignore=["bias"])
    >>> results = sm.prune(model, plan, sm.Pruning((0.5, 0.8)), train=sm.SGD(data))
    >>> [int(result.forms["weight"].dense().count_nonzero()) for result in results]
    [100, 40]
    """
    if train is None:
        raise ArgumentError(must("train", "a function train(model, penalty, step)", train))
    if not callable(plan):
        raise ArgumentError(must("plan", "a function from the share of zeros to a Plan", plan))
    check_resume(checkpoint, resume, state, load_state)
    plans = [plan(level) for level in pruning.levels]
    if others := [own for own in plans if not isinstance(own, Plan)]:
        raise ArgumentError(must("what plan(level) returns", "a Plan", others[0]))
    matched = [own.match(model) for own in plans]
    check_training(model, train, inputs, None, None)
    reference = state_tensors(model)
    recipes = [
        {**recipe_of(own, None, pruning.schedule(k), seed), "levels": pruning.levels[: k + 1]}
        for k, own in enumerate(plans)
    ]
    checkpoints: list[Checkpoint | None] = [None] * len(plans)
    if checkpoint is not None:
        paths = [Path(checkpoint) / f"level-{k:02}.checkpoint" for k in range(len(plans))]
        checkpoints = [
            Checkpoint(p, recipe, reference, state, load_state) for p, recipe in zip(paths, recipes, strict=True)
        ]
        for path in paths if not resume else ():
            path.unlink(missing_ok=True)  # of an earlier run, which is not to be resumed either
    own_model = copied(model)
    loop = Loop(
        model=own_model,
        tasks=(),
        learner=TrainingLearner(own_model, train),
        schedule=pruning.schedule(0),
        evaluate=evaluate,
        inputs=inputs,
        seed=seed,
        report=report,
    )
    runs = run_levels(loop, pruning, [m.tasks for m in matched], checkpoints, resume=resume)
    return [
        _result(network, match, reference, history, verdict, None, recipe)
        for match, recipe, (network, history, verdict) in zip(matched, recipes, runs, strict=True)
    ]


def _direct(
    tensors: Mapping[str, Tensor],
    matched: Matched,
    limit: Limit | None,
    importance: Mapping[str, Tensor] | None,
    recipe: Mapping[str, Any],
) -> Result:
    network = _dense(tensors)
    if limit is None:
        network |= c_step(matched.tasks, tensors, importance=importance)
    else:
        network |= c_step_within(limit, matched.tasks, tensors, network, importance=importance).forms
    # What is kept as it is must not change with the tensors that came.
    ours = {t.data_ptr() for t in tensors.values()}
    network = {n: form.map(lambda t: t.clone() if t.data_ptr() in ours else t) for n, form in network.items()}
    return _result(network, matched, tensors, [], Verdict.DIRECT, limit, recipe)


def _limit(budget: Budget | None, matched: Matched, reference: Mapping[str, Tensor]) -> Limit | None:
    """The most bytes of the file, where that is what the budget says."""
    if budget is None or budget.max_drop is not None:
        return None
    entries = sum(t.numel() for t in reference.values())
    return _limited(Limit(budget.limit(_bytes(reference), entries)), matched, reference)


def _limited(limit: Limit, matched: Matched, reference: Mapping[str, Tensor]) -> Limit:
    _check_free(matched, reference, f"the budget is {limit.most:,} {limit.unit}", limit)
    return limit


def _check_free(matched: Matched, reference: Mapping[str, Tensor], budget: str, limit: Limit) -> None:
    if is_free(matched.tasks):
        return
    size = limit.measure(_dense(reference) | c_step(matched.tasks, reference))
    raise BudgetError(
        f'{budget} and the plan, in which nothing is "auto", makes a network of {size:,} {limit.unit}; '
        'leave a hyperparameter "auto", as in Prune("auto"), or leave the budget out'
    )


def _dense(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    return {n: Dense(shape=t.shape, dtype=t.dtype, values=t) for n, t in tensors.items()}


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _result(
    network: Mapping[str, Form],
    matched: Matched,
    reference: Mapping[str, Tensor],
    history: list[StepRecord],
    verdict: Verdict,
    limit: Limit | None,
    recipe: Mapping[str, Any],
) -> Result:
    rules = {name: str(task.compression) for task in matched.tasks for name in task.weights}
    errors = {name: relative_error(reference[name], network[name]) for name in rules}
    worse = verdict in (Verdict.DIVERGED, Verdict.UNREACHED)
    if limit is not None and not worse and limit.measure(network) < 0.99 * limit.most:
        verdict = Verdict.BUDGET_NOT_FILLED
    return Result(
        forms=network,
        rules={name: rules.get(name, "kept") for name in network},
        history=tuple(history),
        verdict=verdict,
        reference_bytes=_bytes(reference),
        relative_errors=errors,
        metadata={**recipe, "verdict": verdict.name, "versions": versions()},
    )
