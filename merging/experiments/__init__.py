"""How every shipped table was made; the app reads the tables, and nothing of it imports this but the command line."""
