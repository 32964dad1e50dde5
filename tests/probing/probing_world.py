"""What the tests of probing share."""

HOOKPOINTS = ["layers.0.mlp", "layers.1.mlp"]
