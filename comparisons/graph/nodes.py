"""The cells that a plan means, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from comparisons.cells.maps import parts_of
from comparisons.cells.run import Cell
from comparisons.graph import specs
from comparisons.graph.specs import Done, Masked
from comparisons.measures import MEASURES
from comparisons.methods.controls import METHODS
from comparisons.methods.work import Work
from comparisons.plans.plan import Plan
from evaluation.masking.variants import Variant

__all__ = ["Node", "build_nodes"]

_NOTHING = Work()


@dataclass(frozen=True)
class Node:
    """A cell before the hashes of what it needs are known.

    Args:
        name: unique in the plan, for people.
        stage: the kind of the cell.
        needs: names of the nodes whose results `make` reads.
        priority: lower goes first among the nodes that are ready.
        passes: what the time left is reckoned by: images through the network, a training step
            counted as one and the gradient of a method as one.
        make: results of finished nodes by name to the full specification.
        alone: runs while nothing else does, since it is timed.
        work: what the cost is reckoned by.
        method: whose maps it makes or uses; None for what all methods share.
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
    """Every cell of a plan.

    Args:
        plan: the options.
        train_images: how many training images there are, for the cost.
        test_images: how many test images there are, for the cost.

    >>> plan = Plan("shapes", "resnet9", ("random",), fractions=(0.5,), mask_only=())
    >>> [node.name for node in build_nodes(plan, train_images=8, test_images=8)]
    ['data', 'unmasked, seed 0', 'maps of random', 'random, roar 50 %, seed 0', 'cost of random']
    """
    training = plan.recipe.epochs * train_images
    images = train_images + test_images
    parts = parts_of(train_images, test_images)
    tested = Work(training, forward=test_images)
    nodes = [Node("data", "data", (), (-2, 0, 0), 0, lambda _: specs.data_cell(plan))]
    weights = plan.given_weights
    if weights is not None:
        name, make = specs.explained_name(plan), specs.pretrained(plan, weights)
        work = Work(forward=images, networks=1)
        nodes.append(Node(name, "pretrained", ("data",), (-2, 1, 0), images, make, work=work))
    for order, seed in enumerate(plan.seeds):
        name, make = specs.base_name(seed), specs.base(plan, seed)
        # Tested, then asked what it predicts for every image.
        work = tested + Work(forward=images, networks=1)
        nodes.append(Node(name, "base", ("data",), (-1, order, 0), training, make, work=work))
        if any(MEASURES[measure].needs_permuted for measure in plan.measures):
            name, make = specs.permuted_name(seed), specs.base(plan, seed, kind="permuted")
            when, work = (-1, order, 1), tested + Work(networks=1)
            nodes.append(Node(name, "permuted", ("data",), when, training, make, work=work))
    for place, track in enumerate(plan.tracks):
        nodes += _folds(plan, track, place, train_images)
        for order, method in enumerate(plan.methods):
            line = _Line(plan, track, method, place, order, tested, images, parts)
            # What never asks the network has the masks it had.
            asks = METHODS[method].passes > 0
            nodes += line.chains() if track.recursive and asks else line.nodes()
    for order, method in enumerate(plan.methods):
        nodes += _measurings(plan, method, order, test_images)
    # After everything else, when the machine is quiet.
    last = len(plan.tracks) * len(plan.seeds)
    needs = ("data", specs.explained_name(plan))
    for order, method in enumerate(plan.methods):
        name, make = f"cost of {method}", specs.profile(plan, method)
        when = (last, order, 2)
        nodes.append(Node(name, "profile", needs, when, 0, make, alone=True, method=method))
    return list({node.name: node for node in nodes}.values())


def _measurings(plan: Plan, method: str, order: int, test_images: int) -> Iterator[Node]:
    """A node a measure and seed: each seed's own network is explained, or the given one once."""
    images = min(plan.measure_images, test_images)
    for seed in plan.seeds_of(method) if plan.weights is None else plan.seeds[:1]:
        for measure in (MEASURES[name] for name in plan.measures):
            permuted = (specs.permuted_name(seed),) if measure.needs_permuted else ()
            work = METHODS[method].work * (images * measure.maps)
            work += Work(forward=images * measure.forwards)
            yield Node(
                f"{measure.name} of {method}, seed {seed}",
                "measure",
                ("data", specs.explained_name(plan, seed), *permuted),
                (plan.seeds.index(seed), order, 2),
                images * (measure.maps * METHODS[method].passes + measure.forwards),
                specs.measuring(plan, measure, method, seed),
                work=work,
                method=method,
            )


def _folds(plan: Plan, track: Variant, place: int, train_images: int) -> Iterator[Node]:
    """Networks that each miss a fold of the training images, where a track needs them."""
    training = plan.recipe.epochs * train_images
    for fold in range(track.folds):
        kept = training - training // track.folds
        yield Node(
            specs.fold_name(track.folds, fold),
            "fold",
            ("data",),
            (place * len(plan.seeds), -1, fold),
            kept,
            specs.fold(plan, track.folds, fold),
            work=Work(kept, forward=train_images // track.folds),
        )


@dataclass(frozen=True)
class _Line:
    """One method in one track.

    Args:
        plan: the options.
        track: how ROAR and KAR are read.
        method: the method.
        place: which of the plan's tracks it is.
        order: which of its methods.
        tested: what one training takes, and its test.
        images: training and test images.
        parts: the shards of each part that maps are made in; none where they are made at once.
    """

    plan: Plan
    track: Variant
    method: str
    place: int
    order: int
    tested: Work
    images: int
    parts: list[range]

    def nodes(self) -> Iterator[Node]:
        """The maps, and every training on images masked by them."""
        first = self.plan.tracks[0]
        # A fill is made of the same masks; a method that never asks the network has them too.
        of_maps = replace(self.track, fill=first.fill, recursive=False)
        maps = specs.maps_name(self.plan, of_maps, self.method)
        yield from self._maps(maps, of_maps)
        for masked in self._trainings():
            own = specs.training_name(self.plan, self.track, masked)
            source = None
            if replace(self.track, target_from=first.target_from, recursive=False) == first:
                before = specs.training_name(self.plan, first, masked)
                source = before if before != own else None
            needs = ["data", maps]
            if source is not None:
                needs += [source, specs.maps_name(self.plan, first, self.method)]
            make = specs.training(self.plan, self.track, masked, maps, source)
            yield self._training(own, masked, tuple(dict.fromkeys(needs)), make)

    def chains(self) -> Iterator[Node]:
        """For each seed: ROAR from the smallest fraction on, each with maps of the one before."""
        of_maps = replace(self.track, fill=self.plan.fill, recursive=False)
        for seed in self.plan.seeds_of(self.method):
            maps = specs.maps_name(self.plan, of_maps, self.method)
            yield from self._maps(maps, of_maps)
            last: Masked | None = None
            for fraction in self.plan.fractions:
                masked = Masked(self.method, "roar", fraction, seed)
                if last is not None:
                    before, trained = maps, specs.training_name(self.plan, self.track, last)
                    maps = specs.next_maps_name(self.plan, self.track, last)
                    make = specs.next_maps(self.plan, self.track, last, fraction, before, trained)
                    needs = ("data", before, trained)
                    yield from self._in_parts(maps, self.track, needs, self._priority(seed), make)
                name = specs.training_name(self.plan, self.track, masked)
                make = specs.chained_training(self.plan, self.track, masked, maps, last)
                # All but the last are asked what they predict for every image.
                asked = fraction != self.plan.fractions[-1]
                kept = Work(forward=self.images, networks=1) if asked else _NOTHING
                yield self._training(name, masked, ("data", maps), make, kept)
                last = masked

    def _trainings(self) -> Iterator[Masked]:
        modes = ("roar",) if self.track.recursive else self.plan.modes
        for seed in self.plan.seeds_of(self.method):
            for mode in modes:
                for fraction in self.plan.fractions:
                    if not (mode == "kar" and specs.has_dual(self.plan, self.method, fraction)):
                        yield Masked(self.method, mode, fraction, seed)
        if self.place == 0:
            for mode, fraction in self.plan.mask_only:
                yield Masked(self.method, mode, fraction, self.plan.seeds[0], "mask_only")

    def _maps(self, name: str, track: Variant) -> Iterator[Node]:
        needs = ["data", specs.explained_name(self.plan)]
        needs += [specs.fold_name(track.folds, fold) for fold in range(track.folds)]
        # Maps that an earlier track needs too are made with its own.
        place = 0 if track == self.plan.tracks[0] else self.place
        priority = (place * len(self.plan.seeds), self.order, 0)
        make = specs.maps(self.plan, track, self.method)
        yield from self._in_parts(name, track, tuple(needs), priority, make)

    def _in_parts(
        self,
        name: str,
        track: Variant,
        needs: tuple[str, ...],
        priority: tuple[int, int, int],
        make: Callable[[Done], Cell],
    ) -> Iterator[Node]:
        """Maps of all images; where there are many, what several workers make of them first."""
        entry = METHODS[self.method]
        of_one = entry.work + Work(levels=3 if track.mask_unit == "element" else 1)

        def node(
            name: str, stage: str, images: int, make: Callable[[Done], Cell], *parts: str
        ) -> Node:
            passes, work = entry.passes * images, of_one * images
            every, method = (*needs, *parts), self.method
            return Node(name, stage, every, priority, passes, make, work=work, method=method)

        made: list[str] = []
        for place, shards in enumerate(self.parts):
            part = specs.part_name(name, place, len(self.parts))
            # Of all shards, so that the parts' images sum to all.
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
