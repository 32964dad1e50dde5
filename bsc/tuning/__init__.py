"""Sweeps of the learning rate: trials on a small budget, and the choice between them."""
