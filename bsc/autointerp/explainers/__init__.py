"""What turns a latent's windows into a sentence."""
