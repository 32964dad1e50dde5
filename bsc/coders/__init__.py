"""Sparse coders, their binarisers and the kernels under them."""
