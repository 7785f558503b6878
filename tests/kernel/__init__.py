"""What a NAT does to its kernel, and what packets meet there."""
