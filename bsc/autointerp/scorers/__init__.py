"""What asks whether a sentence predicts where a latent fires."""
