"""What all tests share."""

import pytest
import torch

# With one thread sums are added in one order: results are equal to the last digit.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Time nothing unless asked to: each benchmark then runs once, on small sizes."""
    option = config.option
    # One file may be run without pytest-benchmark.
    if hasattr(option, "benchmark_only") and not (option.benchmark_only or option.benchmark_enable):
        option.benchmark_disable = True
