"""Sentence embeddings: the model that makes them, and those of the windows that explanations are tested on."""
