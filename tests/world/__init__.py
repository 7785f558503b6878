"""The world that the hanat binary meets in tests: AWS APIs, IMDS, weather."""

from .world import World

__all__ = ["World"]
