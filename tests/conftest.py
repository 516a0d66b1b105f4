"""What all tests share."""

import torch

# With one thread sums are added in one order: results are equal to the last digit.
torch.set_num_threads(1)
