"""The Try it panel: a text of one's own, who did it, and what the merge broke."""
