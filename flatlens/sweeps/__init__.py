"""Grids of runs: the plan, the folder, who works on it, and tables over all its runs."""
