"""Request buckets: how many calls of an API action the account may make."""

from .clock import CLOCK

# EC2 API reference, "Request throttling": capacity, refill a second.
_DESCRIBE = (100.0, 20.0)
_MUTATE = (50.0, 5.0)
_EXCEPTIONS = {"ModifyNetworkInterfaceAttribute": (100.0, 5.0)}
# No public number for Auto Scaling: this is a guess that no well-behaved client reaches.
_AUTOSCALING = (100.0, 10.0)


class Buckets:
    def __init__(self) -> None:
        self._limits: dict[str, tuple[float, float]] = {}
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}

    def set(self, action: str, capacity: float, refill: float) -> None:
        """Give an action another bucket, full."""
        self._limits[action] = (capacity, refill)
        self._levels = {key: level for key, level in self._levels.items() if key[1] != action}

    def take(self, service: str, action: str) -> bool:
        """Take a token, if there is one. Call it under the world's lock."""
        if service not in ("ec2", "autoscaling"):
            return True
        capacity, refill = self._limit(service, action)
        now = CLOCK.now()
        level, since = self._levels.get((service, action), (capacity, now))
        level = min(capacity, level + (now - since) * refill)
        allowed = level >= 1
        self._levels[service, action] = (level - 1 if allowed else level, now)
        return allowed

    def reset(self) -> None:
        self._limits.clear()
        self._levels.clear()

    def _limit(self, service: str, action: str) -> tuple[float, float]:
        if action in self._limits:
            return self._limits[action]
        if service == "autoscaling":
            return _AUTOSCALING
        if action.startswith("Describe"):
            return _DESCRIBE
        return _EXCEPTIONS.get(action, _MUTATE)
