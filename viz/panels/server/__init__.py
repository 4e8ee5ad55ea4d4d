"""What a server says of itself: its load and limits, as a fold of the page, as JSON, and as a line per finished job."""
