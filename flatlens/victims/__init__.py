"""The model made ready to be attacked and measured, and what is checked of it."""
