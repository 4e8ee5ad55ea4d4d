"""How every shipped table was made; the app reads the tables, and only the command line and its reports import this."""
