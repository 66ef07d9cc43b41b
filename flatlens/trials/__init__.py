"""Trials: what is put to the test with attacks, sample by sample: masked gradients, detectors."""
