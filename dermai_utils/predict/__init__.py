"""A run -> an answer about your own photo."""
