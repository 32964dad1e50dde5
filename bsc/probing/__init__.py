"""Sparse probing: what single latents say of a document, against single dimensions of the activations."""
