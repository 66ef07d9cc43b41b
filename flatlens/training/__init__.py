"""Models that are trained by a recipe."""
