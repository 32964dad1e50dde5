"""The sparse products of a coder: a plain reference, and faster twins of it."""
