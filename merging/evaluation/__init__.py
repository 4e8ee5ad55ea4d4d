"""Accuracy of whatever can be put into a base model, with the intervals it deserves."""
