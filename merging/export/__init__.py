"""A merge for others: a full model, and putting a folder on the hub."""
