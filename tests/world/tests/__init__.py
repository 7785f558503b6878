"""The world's own tests."""
