"""What tests play in, and what several of them share."""
