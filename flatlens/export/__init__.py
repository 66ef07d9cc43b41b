"""Tables and inputs of many runs as one file."""
