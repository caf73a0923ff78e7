"""Layer by layer through the model: collect what an algorithm needs of a stage's input, quantize the stage, go on.

Several methods can go through together (`run_jobs`). The model is loaded and the calibration text embedded once; the
methods that look at the 16-bit model's activations share them and their statistics, one forward for all. Methods that
look at the activations of what they have quantized so far (`Order`) each have a stream of activations of their own:
there nothing can be shared without changing their results.

When all samples of such a stream form one batch, a block is run once: as its forward reaches a stage, the stage is
quantized in flight and the forward goes on with the quantized weights. With several batches each stage is reached by
running every batch up to it, and no further; then the block is run once more for its outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantgate.core.errors import MethodError
from quantgate.core.progress import Progress
from quantgate.models.ahead import will_need
from quantgate.models.layers import Block, Stage, decoder_blocks, head_of, hooks, observe_stages, replace_weight
from quantgate.models.products import wide_products
from quantgate.quantize.base import Algorithm, LayerResult, Order, Statistics
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.shards import PooledStatistics
from quantgate.quantize.numerics.ragged import attention_of
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import ActivationSettings, Need
from quantgate.quantize.sweep.batches import Batch, Stop, batches_of, capture, run_block
from quantgate.quantize.sweep.learning import LearnedBlock, rounded_inputs
from quantgate.quantize.sweep.results import dequantized, learned, quantized
from quantgate.quantize.transforms.activations import static_grid
from quantgate.quantize.transforms.blocks import BlockAlgorithm, learns
from quantgate.quantize.transforms.fold import Fold, Transformation, apply, find_folds, restored

Results = dict[str, LayerResult]


@dataclass
class Job:
    """One method on its way through the model.

    ``algorithm``: by layer name; None leaves the layer in 16 bit. ``transformation``: by the names of a stage's layers,
    what finds the scale of its input. ``activations``: how each layer's input is quantized, by its name.

    ``results``: the quantized layers. ``input_grids``: tensors of static inputs, by the name they are stored under.
    ``changed``: other parameters that a fold has changed, in the model's dtype. ``folds``: first layer of every scaled
    stage -> module that carries the inverse scale. ``masters``: folded weights of the present block in float32.
    ``finish``: what becomes of each result when its block is done. ``seconds``: time spent on this job, with its share
    of what it shared.
    """

    who: str
    algorithm: Callable[[str], Algorithm | None]
    transformation: Callable[[Sequence[str]], Transformation | None] = lambda _: None
    activations: Callable[[str], ActivationSettings | None] = lambda _: None
    finish: Callable[[LayerResult], LayerResult] = lambda result: result
    input_grids: dict[str, Tensor] = field(default_factory=dict)
    results: Results = field(default_factory=dict)
    changed: dict[str, Tensor] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)
    masters: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def algorithms(self, names: Iterable[str]) -> list[Algorithm]:
        """The different algorithms among the layers ``names``, in their order."""
        found = (self.algorithm(name) for name in names)
        return list({id(each): each for each in found if each is not None}.values())

    def needs(self, names: Sequence[str]) -> frozenset[Need]:
        """Statistics that the transformation and static activations of the stage ``names`` look at."""
        transformation = self.transformation(names)
        wanted = [transformation.needs] if transformation else []
        return frozenset().union(*wanted, *(found.needs for name in names if (found := self.activations(name))))


class StageStatistics:
    """The statistics of one stage's input for all algorithms that read it.

    Algorithms that say what they ``need`` share one object; any other keeps what it makes itself.
    """

    def __init__(
        self, algorithms: Sequence[Algorithm], needs: frozenset[Need], features: int, device: torch.device
    ) -> None:
        declared = [frozenset(each.needs) for each in algorithms if hasattr(each, "needs")]
        needs = needs.union(*declared)
        self.shared = InputStatistics(features, device, needs) if needs else None
        self.own = {id(each): each.statistics(features, device) for each in algorithms if not hasattr(each, "needs")}

    def add(self, rows: Tensor) -> None:
        """Take in input vectors ``[n, features]``."""
        for each in (self.shared, *self.own.values()):
            if each is not None:
                each.add(rows)

    def of(self, algorithm: Algorithm) -> Statistics | None:
        """What ``algorithm`` is given."""
        if hasattr(algorithm, "needs"):
            return self.shared if algorithm.needs else None
        return self.own[id(algorithm)]

    def divided(self, scale: Tensor) -> StageStatistics:
        """The statistics of the input divided by ``scale`` (float32 ``[features]``); only shared ones can be."""
        found = StageStatistics([], frozenset(), 0, scale.device)
        found.shared = self.shared.divided(scale) if self.shared else None
        return found


class Sweep:
    """One pass over the blocks of ``model`` with one algorithm; the model's linear weights are replaced on the way."""

    def __init__(
        self,
        model: nn.Module,
        algorithm: Algorithm,
        who: str,
        progress: Progress,
        transformation: Transformation | None = None,
    ) -> None:
        names = {name for block in decoder_blocks(model, who) for name in block.linears}
        self.model, self.progress = model, progress
        self.job = Job(who, lambda name: algorithm if name in names else None, lambda _: transformation)

    def run(self, calibration: Calibration | None) -> Results:
        """Quantize every block; results by layer name, in the model's order. Raises as `run_jobs`."""
        run_jobs(self.model, [self.job], calibration, self.progress, replace_weights=True)
        return self.job.results


@torch.no_grad()
def run_jobs(
    model: nn.Module,
    jobs: Sequence[Job],
    calibration: Calibration | None,
    progress: Progress,
    *,
    replace_weights: bool = False,
) -> None:
    """Quantize every block of ``model`` by every job; each job's results are in the model's order.

    The model's weights are what they were, block by block as soon as a block is done, unless there is one job and
    ``replace_weights``: then it holds the quantized ones in the end.

    Raises:
        MethodError: an algorithm cannot be applied; names the layers.
    """
    who = ", ".join(job.who for job in jobs)
    blocks = decoder_blocks(model, who)
    with wide_products(next(model.parameters()).dtype), attention_of(model) as ragged:
        given = calibration if isinstance(calibration, PooledStatistics) else None
        batches = batches_of(model, blocks, calibration, who, ragged=ragged) if calibration and not given else []
        if given:
            _check_given([name for block in blocks for name in block.linears], jobs)
        learning = {id(job): learner for job in jobs if (learner := _learner(blocks, job))}
        keep = len(jobs) > 1  # of all jobs: what one walk leaves in the model, the next one would start from
        walks = _walks(blocks, [job for job in jobs if id(job) not in learning], batches, keep, given)
        for job in (each for each in jobs if id(each) in learning):
            if calibration is None or given:
                raise MethodError(job.who, "no text to learn from", expected="a calibration set")
            learner = learning[id(job)]
            steps = batches_of(model, blocks, calibration, who, ragged=ragged, budget=learner.step_tokens)
            walks.append(_LearningWalk(job, learner, steps, keep=keep))
        probe = probe_of(model, blocks)
        for index, block in enumerate(blocks):
            progress.step(f"{who}: quantizing blocks", index, len(blocks))
            for following in blocks[index + 1 : index + 2]:
                will_need(following.module)
            place = _place(block, index, len(blocks), probe, jobs, calibrated=bool(batches or given))
            with restored([] if replace_weights or keep else list(block.module.modules())):
                for walk in walks:
                    walk.step(place)
            for job in jobs:
                mine = [name for name in block.linears if name in job.results]
                job.results |= {name: job.finish(job.results[name]) for name in mine}
    progress.step(f"{who}: quantizing blocks", len(blocks), len(blocks))
    for job in jobs:
        results = {name: job.results[name] for each in blocks for name in each.linears if name in job.results}
        job.results = results | _heads(model, job)


def _heads(model: nn.Module, job: Job) -> Results:
    """The output head, quantized if the job has an algorithm for it. The model keeps its own: it may be tied.

    Raises:
        MethodError: an algorithm that wants to see the head's inputs.
    """
    found: Results = {}
    for name, head in head_of(model).items():
        if (algorithm := job.algorithm(name)) is None:
            continue
        if _takes_data(algorithm) or job.activations(name):
            raise MethodError(
                f"{job.who}: {name}",
                "a method that looks at data or quantizes activations",
                expected="one like rtn8, nf4 or none for the head",
            )
        (found[name],) = quantized(algorithm, [head.weight], None, [name], job.who)
    return found


@dataclass(frozen=True)
class _Place:
    """Where in the model the walks are: a block, its stages, its fold points."""

    block: Block
    index: int
    stages: list[Stage]
    last: bool
    folds: list[Fold] = field(default_factory=list)


def probe_of(model: nn.Module, blocks: Sequence[Block]) -> Batch:
    """Two different tokens without a zero at the first block's boundary; stages and folds are read off them."""
    device = next(model.parameters()).device
    probe = capture(model, blocks, torch.zeros(1, 2, dtype=torch.int64, device=device))
    noise = torch.randn(probe.hidden.shape, generator=torch.Generator().manual_seed(0))
    return replace(probe, hidden=noise.to(probe.hidden))


def _place(block: Block, index: int, count: int, probe: Batch, jobs: Sequence[Job], *, calibrated: bool) -> _Place:
    run = partial(run_block, block, probe, index)
    if not calibrated:
        return _Place(
            block, index, [Stage({name: linear}) for name, linear in block.linears.items()], index + 1 == count
        )
    stages = observe_stages(block, run, ", ".join(job.who for job in jobs))
    place = _Place(block, index, stages, index + 1 == count)
    if any(_transforms(job, place) for job in jobs):
        place.folds.extend(find_folds(block, stages, run))
    return place


def _transforms(job: Job, place: _Place) -> bool:
    wanted = any(job.transformation(stage.names) for stage in place.stages)
    return wanted or any(learns(each) and each.scales for each in job.algorithms(place.block.linears))


def _learner(blocks: Sequence[Block], job: Job) -> BlockAlgorithm | None:
    """The algorithm that learns whole blocks, if the job has one.

    Raises:
        MethodError: another algorithm beside it.
    """
    found = job.algorithms(name for block in blocks for name in block.linears)
    learners = [each for each in found if learns(each)]
    if learners and len(found) > 1:
        raise MethodError(job.who, "a method that learns whole blocks beside another", expected="it alone, or none")
    return learners[0] if learners else None


def _check_given(names: Sequence[str], jobs: Sequence[Job]) -> None:
    """Raise MethodError for a job that sums over the 16-bit model's inputs cannot serve."""
    for job in jobs:
        for algorithm in job.algorithms(names):
            order = algorithm.order
            if not _takes_data(algorithm):
                continue
            if order.true_sequential or order.block_sequential:
                raise MethodError(
                    job.who,
                    "it reads inputs of layers that are quantized already, which nobody can sum beforehand",
                    expected="a method that reads the 16-bit model's inputs",
                    hint="take its row with float inputs: gptq-float-w4, spqr-float-w4; or awq4, smoothquant8",
                )
            if not hasattr(algorithm, "needs"):
                raise MethodError(
                    job.who, "it keeps statistics of its own, which shards do not hold", expected="gptq, spqr or awq"
                )


def _walks(
    blocks: Sequence[Block], jobs: Sequence[Job], batches: list[Batch], keep: bool, given: PooledStatistics | None
) -> list[_Walk]:
    """How the jobs go: those without order or data together, every other one alone with its own activations.

    ``keep``, ``given``: see `_Walk`.
    """
    names = [name for block in blocks for name in block.linears]
    alone: list[tuple[Job, Order]] = []
    together: list[Job] = []
    for job in jobs:
        orders = [algorithm.order for algorithm in job.algorithms(names) if _takes_data(algorithm)]
        order = Order(any(each.true_sequential for each in orders), any(each.block_sequential for each in orders))
        if batches and (order.true_sequential or order.block_sequential):
            alone.append((job, order))
        else:
            together.append(job)
    curious = any(
        any(map(_takes_data, job.algorithms(names))) or any(job.needs([name]) for name in names) for job in together
    )
    walks = [_Walk(together, Order(False, False), batches if curious else [], keep, given)] if together else []
    return walks + [_Walk([job], order, [replace(each) for each in batches], keep, None) for job, order in alone]


def _takes_data(algorithm: Algorithm) -> bool:
    if learns(algorithm):
        return True
    if hasattr(algorithm, "needs"):
        return bool(algorithm.needs)
    return algorithm.statistics(1, torch.device("cpu")) is not None


def _summed(given: PooledStatistics, stage: Stage) -> StageStatistics:
    """A stage's statistics as the shards summed them. Raises MethodError when they know no such stage."""
    device = stage.first.weight.device
    if device.type != "cpu":
        raise MethodError("--statistics", f"the device {device}", expected="cpu: sums are read there")
    found = StageStatistics([], frozenset(), 0, device)
    found.shared = given.stages.get(stage.names[0])
    if found.shared is None or len(found.shared.low) != stage.first.in_features:
        raise MethodError("--statistics", f"no sums for {stage.names[0]}", expected="shards of this model's layers")
    return found


class _Walk:
    """Jobs that see the same activations, ``batches``, on their way through the blocks.

    ``order`` is theirs; with ``keep`` the model's parameters are restored after each of them. ``given``: sums that
    take the place of activations.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        order: Order,
        batches: list[Batch],
        keep: bool,
        given: PooledStatistics | None,
    ) -> None:
        self.jobs, self.order, self.batches, self.keep, self.given = jobs, order, batches, keep, given

    def step(self, place: _Place) -> None:
        """Quantize one block and move the batches to its output boundary."""
        start, alone = time.perf_counter(), sum(job.seconds for job in self.jobs)
        self._step(place)
        shared = time.perf_counter() - start - (sum(job.seconds for job in self.jobs) - alone)
        for job in self.jobs:
            job.seconds += shared / len(self.jobs)

    def _step(self, place: _Place) -> None:
        outputs: list[Tensor] = []
        statistics: dict[tuple[str, ...], StageStatistics] = {}
        if self.batches and (not self.order.true_sequential or _transforms(self.jobs[0], place)):
            outputs, statistics = self._collect(place, place.stages, outputs=self._passes_float(place))
        elif self._passes_float(place):
            outputs = self._outputs(place)
        if self.given is not None:
            statistics = {stage.names: _summed(self.given, stage) for stage in place.stages}
        for job in self.jobs:
            start = time.perf_counter()
            with restored(list(place.block.module.modules()) if self.keep else []):
                quantized = self._quantize_block(job, place, statistics)
                if self.order.block_sequential and self.batches and not place.last:
                    outputs = quantized or self._outputs(place)
            job.seconds += time.perf_counter() - start
        for batch, hidden in zip(self.batches, outputs, strict=False):
            batch.hidden = hidden

    def _passes_float(self, place: _Place) -> bool:
        return bool(self.batches) and not self.order.block_sequential and not place.last

    def _outputs(self, place: _Place) -> list[Tensor]:
        return [run_block(place.block, batch, place.index) for batch in self.batches]

    def _quantize_block(
        self, job: Job, place: _Place, statistics: dict[tuple[str, ...], StageStatistics]
    ) -> list[Tensor]:
        """Quantize a block for one job; the quantized block's outputs if they were computed on the way."""
        job.masters.clear()
        if _transforms(job, place):
            statistics = _transform(job, place, statistics)
        if not self.order.true_sequential:
            for stage in place.stages:
                _quantize(job, stage, statistics.get(stage.names))
            return []
        if len(self.batches) == 1:
            return self._in_flight(job, place)
        for stage in place.stages:
            _, found = self._collect(place, [stage], outputs=False)
            _quantize(job, stage, found[stage.names])
        return []

    def _in_flight(self, job: Job, place: _Place) -> list[Tensor]:
        """One forward; each stage is quantized when the forward reaches it. The last block's outputs are not needed."""
        batch = self.batches[0]

        def reach(stage: Stage, x: Tensor) -> None:
            statistics = self._empty(stage)
            statistics.add(batch.rows(x))
            _quantize(job, stage, statistics)
            if place.last and stage is place.stages[-1]:
                raise Stop

        with hooks([_on_input(stage, reach) for stage in place.stages]):
            try:
                return [run_block(place.block, batch, place.index)]
            except Stop:
                return []

    def _collect(
        self, place: _Place, stages: Sequence[Stage], *, outputs: bool
    ) -> tuple[list[Tensor], dict[tuple[str, ...], StageStatistics]]:
        """One forward of every batch for the statistics of ``stages``; with ``outputs`` up to the block's end."""
        collected = {stage.names: self._empty(stage) for stage in stages}
        found: list[Tensor] = []
        for batch in self.batches:

            def reach(stage: Stage, x: Tensor, batch: Batch = batch) -> None:
                collected[stage.names].add(batch.rows(x))
                if stage is stages[-1] and not outputs:
                    raise Stop

            with hooks([_on_input(stage, reach) for stage in stages]), suppress(Stop):
                found.append(run_block(place.block, batch, place.index))
        return found, collected

    def _empty(self, stage: Stage) -> StageStatistics:
        algorithms = {id(each): each for job in self.jobs for each in job.algorithms(stage.names)}
        needs = frozenset[Need]().union(*(job.needs(stage.names) for job in self.jobs))
        return StageStatistics(list(algorithms.values()), needs, stage.first.in_features, stage.first.weight.device)


class _LearningWalk(_Walk):
    """One job whose algorithm learns a block as a whole: what it should give is what the 16-bit model gives there."""

    def __init__(self, job: Job, learner: BlockAlgorithm, batches: list[Batch], *, keep: bool) -> None:
        super().__init__([job], learner.order, batches, keep, None)
        self.learner, self.originals = learner, [replace(each) for each in batches]

    def _step(self, place: _Place) -> None:
        (job,), block = self.jobs, place.block
        wanted = [run_block(block, each, place.index) for each in self.originals]
        targets = [[each] for each in wanted]
        if self.learner.both:
            targets = [[*found, each] for found, each in zip(targets, self._outputs(place), strict=True)]
        outputs: list[Tensor] = []
        kept = list(block.module.modules()) if self.keep else []
        with restored(kept), rounded_inputs(block.linears, job.activations, job.who):
            self._learn(job, place, targets)
            if not place.last:
                outputs = self._outputs(place)
        for original, batch, hidden, output in zip(self.originals, self.batches, wanted, outputs, strict=False):
            original.hidden, batch.hidden = hidden, output

    def _learn(self, job: Job, place: _Place, targets: Sequence[Sequence[Tensor]]) -> None:
        """Quantize the block's layers and put them into the model, folded scales too."""
        names = [name for name in place.block.linears if job.algorithm(name) is not None]
        if not names:
            return
        scales = self._learned(job, place, targets, names)
        job.masters.clear()
        for fold, scale in scales:
            apply(fold, scale, job.masters)
            job.folds[fold.stage.names[0]] = fold.source
        _keep_changed(job, place, [fold for fold, _ in scales])
        for name in names:
            linear = place.block.linears[name]
            weight = dequantized(job.results[name], linear.weight.dtype, linear.weight.shape, f"{job.who}: {name}")
            replace_weight(linear, weight)

    def _learned(
        self, job: Job, place: _Place, targets: Sequence[Sequence[Tensor]], names: Sequence[str]
    ) -> list[tuple[Fold, Tensor]]:
        """What the algorithm makes of the block; the results are the job's, the scales are given back."""
        statistics: dict[str, Statistics | None] = dict.fromkeys(names)
        if self.learner.statistics(1, torch.device("cpu")) is not None:
            _, found = self._collect(place, place.stages, outputs=False)
            statistics |= {name: each.of(self.learner) for stage, each in found.items() for name in stage}
        masters = {name: place.block.linears[name].weight.detach().to(torch.float32) for name in names}
        folds = [
            fold for fold in place.folds if {*fold.stage.names, *([] if fold.is_norm else [fold.source])} <= {*names}
        ]
        task = LearnedBlock(place.block, place.index, self.batches, targets, masters, folds, statistics)
        results, scales = learned(self.learner, task, job.who)
        job.results |= results
        return scales


def _transform(
    job: Job, place: _Place, statistics: Mapping[tuple[str, ...], StageStatistics]
) -> dict[tuple[str, ...], StageStatistics]:
    """Scale the stages of a block that can be scaled; gives the statistics of the scaled inputs.

    All scales are found on the block as it was, then folded in.

    Raises:
        MethodError: no stage of the block can be scaled.
    """
    scales: list[tuple[Fold, Tensor]] = []
    for fold in place.folds:
        shared, transformation = statistics[fold.stage.names].shared, job.transformation(fold.stage.names)
        weights = [linear.weight for linear in fold.stage.linears.values()]
        if shared is not None and transformation is not None and transformation.covers(fold):
            scales.append((fold, transformation.scale(fold, weights, shared)))
    if not scales:
        raise MethodError(
            f"{job.who}: {place.block.name}",
            "no norm or linear layer that could carry the inverse of a scale",
            expected="a norm or a linear layer right before a stage",
        )
    found = dict(statistics)
    scales = [(fold, scale) for fold, scale in scales if not bool((scale == 1).all())]
    for fold, scale in scales:
        apply(fold, scale, job.masters)
        job.folds[fold.stage.names[0]] = fold.source
        found[fold.stage.names] = statistics[fold.stage.names].divided(scale[fold.channels])
    _keep_changed(job, place, [fold for fold, _ in scales])
    return found


def _keep_changed(job: Job, place: _Place, folds: Sequence[Fold]) -> None:
    """Remember the folded parameters that no algorithm of the job will store."""
    touched: dict[str, nn.Module] = {}
    for fold in folds:
        touched |= {fold.source: fold.module, **fold.stage.linears}
    for name, module in touched.items():
        quantized = name in place.block.linears and job.algorithm(name) is not None
        for kind, parameter in module.named_parameters(recurse=False):
            if not (quantized and kind == "weight"):
                job.changed[f"{name}.{kind}"] = parameter.detach().clone()


def _quantize(job: Job, stage: Stage, statistics: StageStatistics | None) -> None:
    """Quantize the layers of a stage by their algorithms and put the result into the model; fit static inputs."""
    for algorithm in job.algorithms(stage.names):
        mine = {name: linear for name, linear in stage.linears.items() if job.algorithm(name) is algorithm}
        weights = [job.masters.get(name, linear.weight) for name, linear in mine.items()]
        found = quantized(algorithm, weights, statistics.of(algorithm) if statistics else None, list(mine), job.who)
        for (name, linear), result in zip(mine.items(), found, strict=True):
            old = linear.weight
            replace_weight(linear, dequantized(result, old.dtype, old.shape, f"{job.who}: {name}"))
        job.results.update(zip(mine, found, strict=True))
    for name in stage.names:
        settings = job.activations(name)
        if settings and not settings.dynamic and statistics and statistics.shared:
            found_grid = static_grid(statistics.shared, settings)
            job.input_grids |= {f"{name}.{part}": tensor for part, tensor in found_grid.items()}


def _on_input(stage: Stage, reach: Callable[[Stage, Tensor], None]) -> RemovableHandle:
    """Call ``reach`` when the stage's first layer is about to run."""
    return stage.first.register_forward_pre_hook(lambda _, args: reach(stage, args[0]))
