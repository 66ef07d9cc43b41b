"""What can be asked for, as plain data that is checked once; no torch."""
