"""The plan of a comparison, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from comparisons.measures import MEASURES
from comparisons.methods import METHODS, is_method
from evaluation.masking.levels import MODES, Mode, check_fractions
from evaluation.masking.variants import Variant
from evaluation.training.pretrained import Normalisation, Weights
from evaluation.training.retraining import Recipe

__all__ = ["PRESETS", "Plan", "PlanError"]


class PlanError(ValueError):
    """Options that cannot be a comparison; the message says which and what to do."""


@dataclass(frozen=True)
class Plan:
    """Every option that a result of a comparison depends on.

    Args:
        data: ``name`` or ``name:argument`` of a source of images.
        train_images: training images at most; None for all.
        test_images: test images at most; None for all.
        image_size: height and width to resize to; None to take images as they are.
        data_seed: seed of generated images, and of which images are taken.
        model: as `evaluation.training.networks.build_network` takes it.
        methods: keys of the registry, in the order of the report.
        modes: ``roar``, ``kar``, or both.
        fractions: shares of the pixels, in (0, 1).
        seeds: seeds of retraining; the first one trains the network that the maps explain.
        first_seed_only: methods that are retrained with the first seed alone.
        mask_only: modes and fractions of trainings on the masks alone, at the first seed.
        measures: measures without retraining; keys of their registry.
        measure_images: test images at most for those measures.
        fill: value of removed pixels.
        unit: that is ranked and removed: ``pixel``, or ``element``.
        variants: further variants of ROAR and KAR, beside the first, which `fill` and `unit` say.
        recipe: of every training.
        weights: of the network that the maps explain, as `evaluation.training.pretrained.Weights`
            takes them; None for the one that the first seed trains. Retraining and its unmasked
            reference start from scratch either way.
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
            raise PlanError(f"no modes given: expected some of {', '.join(MODES)}")
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
    def cuts(self) -> tuple[float, ...]:
        """The fractions at which levels change: those of all cells."""
        wanted = {*self.fractions, *(fraction for _, fraction in self.mask_only)}
        return check_fractions(sorted(wanted))

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Return the seeds that a method is retrained with."""
        return self.seeds[:1] if method in self.first_seed_only else self.seeds

    def to_json(self) -> dict[str, Any]:
        """Return the options by name.

        Newer options that are not given are left out: ids that hash a plan from before there were
        any stay the same.
        """
        options = asdict(self)
        if not self.recipe.alternating_flip:
            del options["recipe"]["alternating_flip"]
        if self.weights_normalisation is None:
            del options["weights_normalisation"]
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


# Options of `run` by preset; what the command line states goes before these.
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": "shapes",
        "model": "resnet9",
        "methods": "random,smoe-linear,gradient",
        "fractions": (0.5,),
        "mask_only": (("roar", 0.5),),
        "train_images": 320,
        "test_images": 80,
        "measure_images": 16,
        "recipe": {"epochs": 1},
    },
    "quick": {
        "data": "shapes",
        "model": "resnet9",
        "methods": "random,centre,oracle,smoe-linear,fastcam,gradient-sgsq",
        "fractions": (0.5, 0.9),
        "mask_only": (("roar", 0.5),),
        "train_images": 1600,
        "test_images": 800,
        "measure_images": 48,
        # Small batches and a low rate: few steps must do.
        "recipe": {"epochs": 4, "batch_size": 32, "learning_rate": 0.02},
    },
    "full": {
        "data": "shapes",
        "model": "resnet9",
        "seeds": (0, 1, 2, 3, 4),
        "recipe": {"epochs": 12},
    },
}
