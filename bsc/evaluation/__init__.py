"""How good a coder is: cross-entropy, FVU, frequencies, and the intervals of them."""
