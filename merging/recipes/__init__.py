"""A merge as data: what it is, as text that repeats it, and as a card for others."""
