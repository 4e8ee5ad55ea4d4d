"""What an adapter is: low-rank updates, PEFT's files, where they come from, which base they belong to."""
