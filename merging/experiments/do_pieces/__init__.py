"""The pieces of the DO-Merging experiment: each measures some of the paper's figures and fills tables of its own."""
