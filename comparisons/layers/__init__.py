"""ROAR and KAR inside the network: every statistic at every scale, one fine-tuning each."""
