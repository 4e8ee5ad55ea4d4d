"""Searching for the best merge by measured accuracy, with Optuna."""
