"""Where a language model comes from, its hookpoints, and how a coder is spliced into it."""
