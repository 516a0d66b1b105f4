"""Names of a run's images and network in sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports.records.reading import read_run


@pytest.mark.parametrize(
    ("model", "network"),
    [
        ("resnet18", "resnet18"),
        ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("package.module:network", "network"),
        ("zoo/net.work.py:network", "network"),
        (r"C:/zoo/net.py:network", "network"),
        (None, ""),
    ],
)
def test_a_function_is_named_without_its_module(new_run, model, network):
    run = replace(read_run(new_run()), model=model)
    assert run.network == network
    assert run.subject == f"shapes, {network}".removesuffix(", ")


def test_a_run_without_records_says_so(new_run):
    run = replace(read_run(new_run()), dataset=None, model=None)
    assert run.subject == "nothing measured yet"
