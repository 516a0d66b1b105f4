"""ROAR and KAR inside a network: masks between two layers."""
