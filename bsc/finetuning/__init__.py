"""End-to-end finetuning: training of a coder goes on, on what the language model says with the coder in it."""
