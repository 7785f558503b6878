"""Maximum instance lifetime, which moto does not know (EC2 Auto Scaling user guide, "Replace Auto
Scaling instances based on maximum instance lifetime"). An instance that has reached it is replaced
the way that the group's maintenance policy says; Auto Scaling may do so earlier, the world does
not.
"""

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import FakeAutoScalingGroup

from .autoscaling import LIFECYCLE, Part, backend
from .clock import CLOCK
from .replacement import REPLACEMENTS, in_service, policy_of

_DAY = 86400


def lifetime_from(seconds: int | None) -> int | None:
    """As a request gives it; 0 clears it. API reference, CreateAutoScalingGroup: at least a day."""
    if not seconds:
        return None
    if not _DAY <= seconds <= 365 * _DAY:
        raise ValidationError(f"MaxInstanceLifetime {seconds} must be {_DAY} to {365 * _DAY}")
    return seconds


class Lifetimes(Part):
    def act(self) -> bool:
        due = [
            member
            for group in backend().autoscaling_groups.values()
            if group.max_instance_lifetime
            for member in in_service(group)
            if not REPLACEMENTS.waits(member)
            and CLOCK.now() - member.launched_at >= group.max_instance_lifetime
        ]
        for member in due:
            REPLACEMENTS.replace(member, policy_of(member.auto_scaling_group))
        return bool(due)


FakeAutoScalingGroup.max_instance_lifetime = None
LIFECYCLE.add(Lifetimes())
