"""The Lessons tab, its card over the other tabs, and the gallery of the papers' figures."""
