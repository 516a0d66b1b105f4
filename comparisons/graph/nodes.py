"""The graph of a comparison: a node for each cell of its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from comparisons.cells.cell import Cell
from comparisons.graph import specs
from comparisons.graph.names import Masked, Names
from comparisons.graph.parts import parts_of
from comparisons.graph.specs import Done
from comparisons.measures import MEASURES
from comparisons.methods import get_method
from comparisons.methods.work import Work
from comparisons.plans.plan import Plan
from evaluation.masking.variants import Variant

__all__ = ["Node", "build_nodes"]

_NOTHING = Work()


@dataclass(frozen=True)
class Node:
    """A cell whose inputs are not known yet.

    Args:
        name: unique in the plan, for people.
        stage: the kind of the cell.
        needs: names of the nodes whose results `make` reads.
        priority: lower goes first among the nodes that are ready.
        passes: images through the network, from which the time left is estimated; a training step
            counts as one, the gradient of a method as one.
        make: results of finished nodes by name to the full specification.
        alone: runs while nothing else does, since it is timed.
        work: from which the cost is estimated.
        method: whose maps it makes or uses; None for nodes that all methods share.
    """

    name: str
    stage: str
    needs: tuple[str, ...]
    priority: tuple[int, int, int]
    passes: int
    make: Callable[[Done], Cell]
    alone: bool = False
    work: Work = _NOTHING
    method: str | None = None


def build_nodes(plan: Plan, *, train_images: int, test_images: int) -> list[Node]:
    """Return the nodes of a plan.

    Args:
        plan: the options.
        train_images: number of training images, for the cost.
        test_images: number of test images, for the cost.

    >>> plan = Plan("shapes", "resnet9", ("random",), fractions=(0.5,), mask_only=())
    >>> [node.name for node in build_nodes(plan, train_images=8, test_images=8)]
    ['data', 'unmasked, seed 0', 'maps of random', 'random, roar 50 %, seed 0', 'cost of random']
    """
    names = Names(plan)
    training = plan.recipe.epochs * train_images
    images = train_images + test_images
    parts = parts_of(train_images, test_images)
    tested = Work(training, forward=test_images)
    nodes = [Node("data", "data", (), (-2, 0, 0), 0, lambda _: specs.data_cell(plan))]
    weights = plan.given_weights
    if weights is not None:
        name, make = names.explained(), specs.pretrained(plan, weights)
        work = Work(forward=images, networks=1)
        nodes.append(Node(name, "pretrained", ("data",), (-2, 1, 0), images, make, work=work))
    for order, seed in enumerate(plan.seeds):
        if plan.modes or weights is None:
            name, make = names.base(seed), specs.base(plan, seed)
            # Tested, then run over every image for its predictions.
            work = tested + Work(forward=images, networks=1)
            nodes.append(Node(name, "base", ("data",), (-1, order, 0), training, make, work=work))
        if any(MEASURES[measure].needs_permuted for measure in plan.measures):
            name, make = names.permuted(seed), specs.base(plan, seed, kind="permuted")
            when, work = (-1, order, 1), tested + Work(networks=1)
            nodes.append(Node(name, "permuted", ("data",), when, training, make, work=work))
        nodes += _fine_tunings(plan, order, seed, train_images, test_images)
    for place, variant in enumerate(plan.all_variants if plan.modes else ()):
        nodes += _folds(plan, variant, place, train_images)
        for order, method in enumerate(plan.methods):
            line = _MethodInVariant(plan, variant, method, place, order, tested, images, parts)
            # Maps that ignore the network stay the same after retraining.
            asks = get_method(method).passes > 0
            nodes += line.chains() if variant.recursive and asks else line.nodes()
    for order, method in enumerate(plan.methods):
        nodes += _measurings(plan, method, order, test_images)
    # After everything else, when the machine is quiet.
    last = len(plan.all_variants) * len(plan.seeds)
    needs = ("data", names.explained())
    # Costs of a published network are `python -m comparisons profile`'s.
    for order, method in enumerate(plan.methods if plan.modes else ()):
        name, make = f"cost of {method}", specs.profile(plan, method)
        when = (last, order, 2)
        nodes.append(Node(name, "profile", needs, when, 0, make, alone=True, method=method))
    return list({node.name: node for node in nodes}.values())


def _fine_tunings(
    plan: Plan, order: int, seed: int, train_images: int, test_images: int
) -> Iterator[Node]:
    """Yield a node for the network that each measure fine-tunes; given weights are tuned once."""
    if plan.weights is not None and seed != plan.seeds[0]:
        return
    names = Names(plan)
    training = plan.recipe.for_fine_tuning().epochs * train_images
    for measure in (MEASURES[name] for name in plan.measures):
        if measure.removal is not None:
            yield Node(
                names.fine_tuned(measure.name, seed),
                "fine_tuned",
                ("data", names.explained(seed)),
                (-1, order, 2),
                training,
                specs.fine_tuning(plan, measure, seed),
                work=Work(training, forward=test_images, networks=1),
            )


def _measurings(plan: Plan, method: str, order: int, test_images: int) -> Iterator[Node]:
    """Yield a node for each measure and seed; given weights are measured once."""
    names = Names(plan)
    images = min(plan.measure_images, test_images)
    for seed in plan.seeds_of(method) if plan.weights is None else plan.seeds[:1]:
        for measure in (MEASURES[name] for name in plan.measures):
            others: tuple[str, ...] = (names.permuted(seed),) if measure.needs_permuted else ()
            if measure.removal is not None:
                others += (names.fine_tuned(measure.name, seed),)
            work = get_method(method).work * (images * measure.maps)
            forwards = measure.forwards_in(plan.measure_steps)
            work += Work(forward=images * forwards)
            yield Node(
                f"{measure.name} of {method}, seed {seed}",
                "measure",
                ("data", names.explained(seed), *others),
                (plan.seeds.index(seed), order, 2),
                images * (measure.maps * get_method(method).passes + forwards),
                specs.measuring(plan, measure, method, seed),
                work=work,
                method=method,
            )


def _folds(plan: Plan, variant: Variant, place: int, train_images: int) -> Iterator[Node]:
    """Yield a node for each fold that a variant with crossfitted targets leaves out."""
    training = plan.recipe.epochs * train_images
    for fold, name in enumerate(Names(plan).folds(variant.folds)):
        kept = training - training // variant.folds
        yield Node(
            name,
            "fold",
            ("data",),
            (place * len(plan.seeds), -1, fold),
            kept,
            specs.fold(plan, variant.folds, fold),
            work=Work(kept, forward=train_images // variant.folds),
        )


@dataclass(frozen=True)
class _MethodInVariant:
    """One method in one variant.

    Args:
        plan: the options.
        variant: of ROAR and KAR.
        method: the method.
        place: of the variant among the plan's.
        order: of the method among the plan's.
        tested: work of one training and its test.
        images: training and test images.
        parts: the shards of each part of the maps; empty if the maps are made at once.
    """

    plan: Plan
    variant: Variant
    method: str
    place: int
    order: int
    tested: Work
    images: int
    parts: list[range]

    @property
    def names(self) -> Names:
        """Names of the plan's nodes."""
        return Names(self.plan)

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes of the maps, and of every training on images masked by them."""
        first = self.plan.all_variants[0]
        # Neither another fill nor retraining of a method without passes changes the masks.
        of_maps = replace(self.variant, fill=first.fill, recursive=False)
        maps = self.names.maps(of_maps, self.method)
        yield from self._maps(maps, of_maps)
        for masked in self._trainings():
            own = self.names.training(self.variant, masked)
            source = None
            if replace(self.variant, target_from=first.target_from, recursive=False) == first:
                before = self.names.training(first, masked)
                source = before if before != own else None
            needs = ["data", maps]
            if source is not None:
                needs += [source, self.names.maps(first, self.method)]
            make = specs.training(self.plan, self.variant, masked, maps, source)
            yield self._training(own, masked, tuple(dict.fromkeys(needs)), make)

    def chains(self) -> Iterator[Node]:
        """Yield the nodes of recursive ROAR: each fraction masks by maps of the network before.

        Each seed is a chain of its own, from the smallest fraction on.
        """
        of_maps = replace(self.variant, fill=self.plan.fill, recursive=False)
        for seed in self.plan.seeds_of(self.method):
            maps = self.names.maps(of_maps, self.method)
            yield from self._maps(maps, of_maps)
            last: Masked | None = None
            for fraction in self.plan.fractions:
                masked = Masked(self.method, "roar", fraction, seed)
                if last is not None:
                    before, trained = maps, self.names.training(self.variant, last)
                    maps = self.names.next_maps(self.variant, last)
                    make = specs.next_maps(self.plan, self.variant, last, fraction, before, trained)
                    needs = ("data", before, trained)
                    yield from self._in_parts(maps, self.variant, needs, self._priority(seed), make)
                name = self.names.training(self.variant, masked)
                make = specs.chained_training(self.plan, self.variant, masked, maps, last)
                # All but the last predict every image, for the maps of the next fraction.
                asked = fraction != self.plan.fractions[-1]
                kept = Work(forward=self.images, networks=1) if asked else _NOTHING
                yield self._training(name, masked, ("data", maps), make, kept)
                last = masked

    def _trainings(self) -> Iterator[Masked]:
        modes = ("roar",) if self.variant.recursive else self.plan.modes
        for seed in self.plan.seeds_of(self.method):
            for mode in modes:
                for fraction in self.plan.fractions:
                    if not (mode == "kar" and specs.has_dual(self.plan, self.method, fraction)):
                        yield Masked(self.method, mode, fraction, seed)
        if self.place == 0:
            for mode, fraction in self.plan.mask_only:
                yield Masked(self.method, mode, fraction, self.plan.seeds[0], "mask_only")

    def _maps(self, name: str, variant: Variant) -> Iterator[Node]:
        needs = ["data", self.names.explained()]
        needs += self.names.folds(variant.folds)
        # Maps that an earlier variant needs too come with that one.
        place = 0 if variant == self.plan.all_variants[0] else self.place
        priority = (place * len(self.plan.seeds), self.order, 0)
        make = specs.maps(self.plan, variant, self.method)
        yield from self._in_parts(name, variant, tuple(needs), priority, make)

    def _in_parts(
        self,
        name: str,
        variant: Variant,
        needs: tuple[str, ...],
        priority: tuple[int, int, int],
        make: Callable[[Done], Cell],
    ) -> Iterator[Node]:
        """Yield the nodes of the parts of some maps, if there are many images, then of the maps."""
        entry = get_method(self.method)
        of_one = entry.work + Work(levels=3 if variant.mask_unit == "element" else 1)

        def node(
            name: str, stage: str, images: int, make: Callable[[Done], Cell], *parts: str
        ) -> Node:
            passes, work = entry.passes * images, of_one * images
            every, method = (*needs, *parts), self.method
            return Node(name, stage, every, priority, passes, make, work=work, method=method)

        made: list[str] = []
        for place, shards in enumerate(self.parts):
            part = self.names.part(name, place, len(self.parts))
            # In proportion to all shards, so that the parts' images sum to all images.
            start, stop = (
                self.images * end // self.parts[-1].stop for end in (shards.start, shards.stop)
            )
            yield node(part, "part", stop - start, specs.part(make, shards))
            made.append(part)
        yield node(name, "maps", 0 if made else self.images, make, *made)

    def _training(
        self,
        name: str,
        masked: Masked,
        needs: tuple[str, ...],
        make: Callable[[Done], Cell],
        more: Work = _NOTHING,
    ) -> Node:
        priority, work = self._priority(masked.seed), self.tested + more
        passes = self.tested.training
        return Node(name, masked.kind, needs, priority, passes, make, work=work, method=self.method)

    def _priority(self, seed: int) -> tuple[int, int, int]:
        plan = self.plan
        return self.place * len(plan.seeds) + plan.seeds.index(seed), self.order, 1
