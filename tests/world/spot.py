"""Spot Instances: the notices that they read from IMDS, and the end that follows.

EC2 user guide, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations".
Any instance can be taken for a spot one.
"""

import json
from datetime import UTC, datetime, timedelta

from .autoscaling import LIFECYCLE, Part, backend
from .clock import CLOCK


class Spot(Part):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._ends: dict[str, float] = {}
        self._notices: dict[str, dict[str, str]] = {}

    def reclaim(self, instance_id: str, notice: float) -> None:
        """EC2 takes the instance back after so many seconds, and says so from now on."""
        self._ends[instance_id] = CLOCK.now() + notice
        when = _timestamp(datetime.now(UTC) + timedelta(seconds=notice))
        action = json.dumps({"action": "terminate", "time": when})
        self._note(instance_id, "spot/instance-action", action)

    def recommend_rebalance(self, instance_id: str) -> None:
        said = json.dumps({"noticeTime": _timestamp(datetime.now(UTC))})
        self._note(instance_id, "events/recommendations/rebalance", said)

    def notices(self, instance_id: str) -> dict[str, str]:
        """What IMDS says below /latest/meta-data/, by path."""
        return self._notices.get(instance_id, {})

    def act(self) -> bool:
        due = [i for i, when in self._ends.items() if when <= CLOCK.now()]
        for instance_id in due:
            del self._ends[instance_id]
            # Auto Scaling user guide, "Design your applications to gracefully handle instance
            # termination": a hook does not delay this. The group finds the instance gone.
            backend().ec2_backend.terminate_instances([instance_id])
            backend().notify_terminate_instances([instance_id])
        return bool(due)

    def _note(self, instance_id: str, path: str, text: str) -> None:
        self._notices.setdefault(instance_id, {})[path] = text


def _timestamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


SPOT = Spot()
LIFECYCLE.add(SPOT)
