"""What is seen of a fleet: its table, on the terminal and as files."""
