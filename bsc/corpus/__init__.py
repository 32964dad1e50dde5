"""Where text comes from, and the tokens cut from it."""
