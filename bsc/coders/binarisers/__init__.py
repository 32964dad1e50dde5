"""Binarisers, one file each; `registry` knows them all without importing torch."""
