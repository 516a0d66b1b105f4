"""The harness: fastsal beside Captum's methods under identical ROAR and KAR."""

import os

# PyTorch's profiler, which counts allocations, writes a line at every start and stop; it looks at
# this when PyTorch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
