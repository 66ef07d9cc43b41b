"""The loop and all around it: from a specification, or from objects, to a trace."""
