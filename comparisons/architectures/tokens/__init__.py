"""Networks of tokens: the tensors that a statistic may be taken of, and their rivals."""
