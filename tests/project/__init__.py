"""The project itself: what make, the tools, the bench and the checks do."""
