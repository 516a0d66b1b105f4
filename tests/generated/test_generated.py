"""Generated networks: the right tensors, the map on the object, a batch as its loop, no traces.

A failure prints the network as code, made smaller as far as it still fails. `GENERATED_SEED=7`
draws other networks than those of every day.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, assume, given, seed, settings

from tests.generated.checks import Trial, problems
from tests.generated.drawing import cases
from tests.generated.kinds import KINDS
from tests.generated.networks import Case

SEED = int(os.environ.get("GENERATED_SEED", "14"))
IMPORTS = """from tests.generated.blocks import *
from tests.generated.checks import Trial, problems
from tests.generated.networks import *
from tests.generated.parts import *
from tests.generated.tokens import *
"""
# Even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

DRAWN = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], print_blob=False
)


def _check(trial: Trial) -> None:
    case, found = trial.case, problems(trial)
    if found:
        said = "\n".join(f"{check}: {problem}" for check, problem in found.items())
        code = f"{IMPORTS}case = {case!r}\nprint(problems(Trial.of(case)))"
        pytest.fail(f"{said}\n\n# GENERATED_SEED={SEED}\n{code}", pytrace=False)


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_each_kind(case):
    trial = Trial.of(case)
    assert trial.shows()
    _check(trial)


def _drawn(case: Case) -> None:
    trial = Trial.of(case)
    # Some mixtures of activations leave no bright place where the object is.
    assume(len(trial.walk.lasts) > 1 and trial.shows())
    _check(trial)


@seed(SEED)
@settings(DRAWN, max_examples=50)
@given(case=cases())
def test_fifty_networks(case):
    _drawn(case)


@pytest.mark.slow
@seed(SEED)
@settings(DRAWN, max_examples=1000)
@given(case=cases())
def test_a_thousand_networks(case):
    _drawn(case)
