"""What the screens ask. The state of a session lives here and nowhere else."""
