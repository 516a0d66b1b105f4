"""ROAR and KAR inside a network: masks on the activations of a layer."""
