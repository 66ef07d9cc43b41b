"""What was measured: tables, what they say, and the folder that they lie in; no torch."""
