"""What goes in and out of a hooked module: extraction and the store."""
