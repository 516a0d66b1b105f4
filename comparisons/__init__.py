"""The harness: fastsal beside Captum's methods under identical ROAR and KAR."""
