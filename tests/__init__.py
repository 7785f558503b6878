"""The black-box tests and the world they run against."""
