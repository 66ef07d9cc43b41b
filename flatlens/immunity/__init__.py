"""Immunization: a feature extractor on which a harmful task is slow to learn by gradient descent, a useful one not."""
