"""Language models that explain and score: asked over HTTP or in the process, each answer kept as it arrives."""
