"""Run after run of layers, in the order of execution: what memory allows at a time, each settled before the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import ArgumentError, must
from ..forms import Form
from ..records import LayerRecord
from .calibrate import Calibration, Tally
from .fits import LayerFits
from .statistics import StatisticsShift


@dataclass
class InRuns:
    """Post-training without a price, which would need the moments of all layers together.

    Attributes:
        current: the network that is being compressed, BatchNorm statistics and biases included.
        put: exchanges weights of `current`.
        memory_bytes: the most that the moments of a run may take; a larger layer makes a run alone.
    """

    fits: LayerFits
    data: Calibration
    current: nn.Module
    put: Callable[[Mapping[str, Form]], None]
    memory_bytes: int
    report: Callable[[LayerRecord], None] = lambda row: None

    def run(self, names: Sequence[str]) -> list[LayerRecord]:
        """A record of every weight; `names` are those that may meet inputs."""
        sizes = self.data.survey(names)
        runs = list(_runs(sizes, self.memory_bytes))
        self._check_together(runs)
        rows = self._settled([name for name in self.fits.sizes if name not in sizes], {})
        for run in runs:
            rows += self._settled(run, self._tallies(run, is_changed=bool(rows)))
        self.fits.shift_statistics(self.data, self.current, None)
        return rows

    def _tallies(self, run: Sequence[str], is_changed: bool) -> dict[str, Tally]:
        if not (self.fits.options.drift and is_changed):
            return self.data.tally(run)
        with StatisticsShift(self.data.original, self.current) as shift:
            return self.data.tally_drift(run, self.current, shift)

    def _settled(self, names: Sequence[str], tallies: dict[str, Tally]) -> list[LayerRecord]:
        """Compresses these weights and puts them into the network, no more of them at a time than must be together."""
        rows = []
        for _, group in self.fits.groups(names):
            self.fits.note({name: tallies.pop(name) for name in group if name in tallies})
            forms = self.fits.project(None, group[:1])
            self.put(forms)
            for name, form in forms.items():
                self.fits.correct_bias(self.current, name, form)
                rows.append(self.fits.record(name, form))
                self.report(rows[-1])
            self.fits.layers.clear()
        return rows

    def _check_together(self, runs: Sequence[Sequence[str]]) -> None:
        """ArgumentError where layers that are compressed together do not stand in one run."""
        place = {name: i for i, run in enumerate(runs) for name in run}
        for task, names in self.fits.groups():
            if len({place.get(name) for name in names}) > 1:
                allowed = f"enough for all layers of task {task.name!r}, which one part is fitted to together"
                raise ArgumentError(must("memory_bytes", allowed, self.memory_bytes))


def _runs(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The layers in order, in runs of at most so many bytes; a larger one stands alone."""
    run: list[str] = []
    for name, size in sizes.items():
        if run and sum(sizes[each] for each in run) + size > most:
            yield run
            run = []
        run.append(name)
    if run:
        yield run
