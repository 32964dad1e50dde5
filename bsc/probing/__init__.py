"""Sparse probing: what a few latents say of a document, against as many dimensions of the activations."""
