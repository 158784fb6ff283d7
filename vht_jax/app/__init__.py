"""What a user of the program sees."""
