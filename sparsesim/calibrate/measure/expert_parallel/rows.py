"""Rows of a layer: checked and timed once for its three stages, handed out one by one."""

from __future__ import annotations

import statistics
from typing import Any

from sparsesim.calibrate.measure.expert_parallel.buffers import Weights, busiest_rows, rank_weights
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer
from sparsesim.calibrate.measure.expert_parallel.run import STAGES, RankLayer, draws
from sparsesim.calibrate.measure.rank_timing import RankClock

Cells = dict[str, float | int | str | None]
COLUMNS = ("layer_time_s", "local_time_s", "busiest_rows")
"""Beside those of every table: seconds of the whole layer in one graph; of the stage's own kernels without its
all-to-all (permute, or weighted sum); rows of the busiest rank, the mean over the draws."""
_LOCAL = {"moe_dispatch": "permute", "moe_combine": "weigh"}


class LayerRows:
    """Layers of one rank; the last one's weights and times are kept, as a layer's three rows follow each other."""

    def __init__(self, rank: int, clock: RankClock) -> None:
        self._rank, self._clock = rank, clock
        self._weights: tuple[tuple[int, ...], Weights] | None = None
        self._timed: tuple[ExpertLayer, dict[str, Cells]] | None = None
        self._built: tuple[ExpertLayer, RankLayer] | None = None

    def checked(self, layer: ExpertLayer) -> tuple[Any, Any]:
        """(result, reference) of a spread of this rank's tokens."""
        return self._run(layer).check()

    def timed(self, layer: ExpertLayer, op: str) -> Cells:
        """Seconds of one stage, with those of the layer it was part of."""
        if self._timed is None or self._timed[0] != layer:
            self._timed = (layer, self._time(layer))
        return self._timed[1][op]

    def energy(self, layer: ExpertLayer, op: str, call_s: float) -> Cells:
        """Sustained work of one stage."""
        runner = self._clock.runner(self._run(layer).calls(op), layer.graph)
        return self._clock.energy(runner, call_s)

    def _run(self, layer: ExpertLayer) -> RankLayer:
        if self._built is None or self._built[0] != layer:
            self._built = None  # the buffers of two layers need not fit together
            self._built = (layer, RankLayer(layer, self._rank, self._weights_of(layer)))
        return self._built[1]

    def _weights_of(self, layer: ExpertLayer) -> Weights:
        key = (layer.ranks, layer.experts, layer.d_model, layer.d_ff)
        if self._weights is None or self._weights[0] != key:
            self._weights = None
            self._weights = (key, rank_weights(layer, self._rank, self._clock.place))
        return self._weights[1]

    def _time(self, layer: ExpertLayer) -> dict[str, Cells]:
        run, clock = self._run(layer), self._clock
        names = [*STAGES, *_LOCAL.values(), "layer"]
        times = {name: clock.time(clock.runner(run.calls(name), layer.graph)) for name in names}
        rows = statistics.fmean(busiest_rows(layer, seed) for seed in range(draws(layer)))
        return {
            op: {
                "measured_time_s": times[op].median_s,
                "minimum_time_s": times[op].minimum_s,
                "spread": times[op].spread,
                "samples": times[op].samples,
                "calls_per_sample": times[op].calls_per_sample,
                "layer_time_s": times["layer"].median_s,
                "local_time_s": times[_LOCAL[op]].median_s if op in _LOCAL else None,
                "busiest_rows": rows,
            }
            for op in STAGES
        }
