"""The plan of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from comparisons.measures import MEASURES, USUAL_STEPS, check_steps
from comparisons.methods import METHODS, check_axes, get_method, is_method
from evaluation.datasets.grids import GRIDS
from evaluation.datasets.load import axes_of, channels_of
from evaluation.masking.levels import MODES, Mode, check_fractions
from evaluation.masking.variants import Variant
from evaluation.metrics.passes import ENGINES
from evaluation.networks.pretrained import AS_BUILT, Normalisation, Weights
from evaluation.training.retraining import Recipe

__all__ = ["Plan", "PlanError"]


class PlanError(ValueError):
    """Options that cannot be a comparison; the message says which and what to do."""


@dataclass(frozen=True)
class Plan:
    """Every option that a result of a comparison depends on.

    Args:
        data: ``name`` or ``name:argument`` of a source of images.
        train_images: training images at most; None for all.
        test_images: test images at most; None for all.
        image_size: height and width to resize to; None to take images as they are. Of sets that are
            made it is the side of an image or a volume, or the length of a signal.
        data_seed: seed of generated images, and of which images are taken.
        model: as `evaluation.networks.build.build_network` takes it.
        methods: keys of the registry, in the order of the report.
        modes: ``roar``, ``kar``, or both; none to measure without retraining.
        fractions: shares of the pixels, in (0, 1).
        seeds: seeds of retraining; the first one trains the network that the maps explain.
        first_seed_only: methods that are retrained with the first seed alone.
        mask_only: modes and fractions of trainings on the masks alone, at the first seed.
        measures: measures without retraining; keys of their registry.
        measure_images: test images at most for those measures.
        measure_steps: steps of those that remove pixels step by step.
        passes_in: what runs their plain forward passes, one of `evaluation.metrics.passes.ENGINES`.
        fill: value of removed pixels.
        unit: that is ranked and removed: ``pixel``, or ``element``.
        variants: further variants of ROAR and KAR, beside the first, which `fill` and `unit` say.
        recipe: of every training.
        weights: of the network that the maps explain, as `evaluation.networks.pretrained.Weights`
            takes them; None for the one that the first seed trains. Retraining and its unmasked
            reference start from scratch either way. Without retraining, published weights and
            those a network is built with may be of other classes than the images'.
        weights_expect: whose normalisation those weights expect.
        weights_normalisation: mean and deviation of R, G and B that a file's weights expect, in
            place of those; None if they are not given.
    """

    data: str
    model: str
    methods: tuple[str, ...]
    modes: tuple[Mode, ...] = MODES
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    seeds: tuple[int, ...] = (0,)
    first_seed_only: tuple[str, ...] = ()
    mask_only: tuple[tuple[Mode, float], ...] = (("roar", 0.5), ("kar", 0.1))
    measures: tuple[str, ...] = ()
    measure_images: int = 64
    measure_steps: int = USUAL_STEPS
    passes_in: str = "torch"
    fill: str = "mean"
    unit: str = "pixel"
    variants: tuple[Variant, ...] = ()
    train_images: int | None = None
    test_images: int | None = None
    image_size: int | None = None
    data_seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    weights: str | None = None
    weights_expect: str = "published"
    weights_normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        """Check every option."""
        object.__setattr__(self, "fractions", check_fractions(self.fractions))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise PlanError(f"seeds {list(self.seeds)}: expected at least one, and each once")
        if min(self.seeds) < 0:
            raise PlanError(f"seed {min(self.seeds)}: expected 0 or more")
        if not self.modes:
            self._check_without_retraining()
        for mode in (*self.modes, *(mode for mode, _ in self.mask_only)):
            if mode not in MODES:
                raise PlanError(f"unknown mode {mode!r}: expected some of {', '.join(MODES)}")
        for mode in self.modes:
            if self.modes.count(mode) > 1:
                raise PlanError(f"mode {mode} is given twice: give each once")
        for mode, fraction in self.mask_only:
            check_fractions([fraction])
            if self.mask_only.count((mode, fraction)) > 1:
                raise PlanError(
                    f"mask only {mode} {100 * fraction:g} % is given twice: give it once"
                )
        for name in ("train_images", "test_images", "image_size", "measure_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PlanError(f"{name}={value}: expected at least 1")
        check_steps(self.measure_steps)
        if self.passes_in not in ENGINES:
            raise PlanError(
                f"passes in {self.passes_in!r}: expected {' or '.join(ENGINES)} as --passes-in"
            )
        for name in self.measures:
            if name not in MEASURES:
                raise PlanError(f"unknown measure {name!r}: expected some of {', '.join(MEASURES)}")
            if MEASURES[name].needs_permuted and self.weights is not None:
                raise PlanError(
                    f"measure {name!r} compares the network with one trained here on permuted "
                    f"labels, and its weights are given: leave out --weights, or {name} of "
                    "--measures"
                )
        if self.weights_normalisation is not None and self.weights is None:
            raise PlanError("--weights-mean and --weights-std are of a file: give it as --weights")
        for variant in self.all_variants:
            if self.all_variants.count(variant) > 1:
                raise PlanError(f"the variant {variant.title or 'of the protocol'} is given twice")
        if any(variant.recursive for variant in self.variants) and "roar" not in self.modes:
            raise PlanError("recursive is a form of ROAR: expected roar among the modes")
        for name in (*self.methods, *self.first_seed_only):
            if not is_method(name):
                raise PlanError(f"unknown method {name!r}: expected some of {', '.join(METHODS)}")
        if axes_of(self.data) != 2:
            self._check_grid(axes_of(self.data))

    def _check_without_retraining(self) -> None:
        if not self.measures:
            raise PlanError(
                f"no modes and no measures: expected some of {', '.join(MODES)} as --modes, or "
                f"some of {', '.join(MEASURES)} as --measures"
            )
        if self.mask_only or self.variants:
            what = "trainings on masks alone" if self.mask_only else "variants of ROAR and KAR"
            raise PlanError(
                f"{what} belong to retraining, and --modes none does without: leave them out, or "
                f"give some of {', '.join(MODES)} as --modes"
            )

    def _check_grid(self, axes: int) -> None:
        """Refuse, of volumes and signals, everything that is for images alone."""
        what = GRIDS[axes].samples
        try:
            for name in (*self.methods, *self.first_seed_only):
                check_axes(f"method {name!r}", get_method(name).axes, axes)
            for name in self.measures:
                check_axes(f"measure {name!r}", MEASURES[name].axes, axes)
        except ValueError as error:
            raise PlanError(str(error)) from None
        if axes == 3 and any(variant.fill != "mean" for variant in self.all_variants):
            raise PlanError(
                f"--fill noisy-linear is for images and signals, not for {what}: take --fill mean"
            )
        recipe = self.recipe
        mirrors = recipe.flip or recipe.alternating_flip
        if recipe.crop_padding or recipe.resized_crop or mirrors:
            raise PlanError(f"crops and flips are for images, not for {what}: give --augment none")
        weights = self.given_weights
        if weights is not None and not weights.is_file and self.weights != AS_BUILT:
            raise PlanError(
                f"--weights {self.weights} are of images or clips in colour, and {self.data} have "
                f"{channels_of(self.data)} of their own channels: give a file of weights that were "
                "trained on them, or leave --weights out"
            )
        if self.weights_normalisation is not None:
            raise PlanError(
                f"--weights-mean and --weights-std are of R, G and B, and {self.data} have "
                f"{channels_of(self.data)} of their own channels: leave them out"
            )

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The first variant of ROAR and KAR, which `fill` and `unit` say, then the others."""
        return (Variant(self.fill, self.unit), *self.variants)

    @property
    def given_weights(self) -> Weights | None:
        """The weights of the explained network, if they are not trained here.

        Raises:
            ValueError: there are no such weights.
        """
        if self.weights is None:
            return None
        return Weights(self.model, self.weights, self.weights_expect, self.weights_normalisation)

    @property
    def takes_own_classes(self) -> bool:
        """True if the explained network answers with classes of its own, whatever the images'.

        Nothing is retrained then, and its weights are published or those it is built with.
        """
        weights = self.given_weights
        return not self.modes and weights is not None and not weights.is_file

    def outputs(self, classes: int) -> int | None:
        """Return the number of outputs that the network is built with; None for its own.

        Args:
            classes: of the images.
        """
        return None if self.takes_own_classes else classes

    @property
    def cuts(self) -> tuple[float, ...]:
        """The fractions at which levels change: those of all cells."""
        wanted = {*self.fractions, *(fraction for _, fraction in self.mask_only)}
        return check_fractions(sorted(wanted))

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Return the seeds that a method is retrained with."""
        return self.seeds[:1] if method in self.first_seed_only else self.seeds

    def to_json(self) -> dict[str, Any]:
        """Return the options by name.

        Newer options that are not given, the usual number of steps and the usual engine are left
        out: ids that hash a plan from before there were any stay the same.
        """
        options = asdict(self)
        if not self.recipe.alternating_flip:
            del options["recipe"]["alternating_flip"]
        if self.weights_normalisation is None:
            del options["weights_normalisation"]
        for name, usual in (("measure_steps", USUAL_STEPS), ("passes_in", "torch")):
            if options[name] == usual:
                del options[name]
        return options

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Read `to_json`, also after JSON made its tuples lists.

        >>> plan = Plan("shapes", "resnet9", ("random",))
        >>> Plan.from_json(plan.to_json()) == plan
        True
        """
        values = dict(data)
        values["recipe"] = Recipe(**values["recipe"])
        values["mask_only"] = tuple((mode, fraction) for mode, fraction in values["mask_only"])
        values["variants"] = tuple(Variant(**variant) for variant in values.get("variants", ()))
        for name in ("methods", "modes", "fractions", "seeds", "first_seed_only", "measures"):
            # A plan from before there were measures has none.
            values[name] = tuple(values.get(name, ()))
        if values.get("weights_normalisation") is not None:
            mean, std = values["weights_normalisation"]
            values["weights_normalisation"] = tuple(mean), tuple(std)
        return cls(**values)

    def conflicts(self, other: Plan) -> list[str]:
        """Return the options that keep two plans from sharing a folder.

        Methods, modes, seeds and variants may be added later; what every cell depends on may not
        change.
        """
        may_change = {"methods", "modes", "seeds", "first_seed_only", "mask_only", "fractions"}
        may_change |= {"measures", "variants"}
        names = [entry.name for entry in fields(self) if entry.name not in may_change]
        changed = [name for name in names if getattr(self, name) != getattr(other, name)]
        if self.cuts != other.cuts:
            changed.append("fractions")
        if self.seeds[0] != other.seeds[0]:
            changed.append("seeds (the first one trains the network that the maps explain)")
        return changed
