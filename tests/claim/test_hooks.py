"""Which launching hook is answered, and what happens when it cannot be told or answered."""

import pytest

from tests.nat import Nat
from tests.world.scene import HOOK, ZONES
from tests.world.weather import Body, Latency, Rule

OWN = ZONES[0]


def add_hook(nat: Nat, name: str, transition: str = "LAUNCHING") -> None:
    nat.world.autoscaling.put_lifecycle_hook(
        AutoScalingGroupName=nat.scene.groups[OWN],
        LifecycleHookName=name,
        LifecycleTransition=f"autoscaling:EC2_INSTANCE_{transition}",
    )


def relaunched(nat: Nat) -> Nat:
    """A new instance of the group, for which all its hooks wait."""
    nat.world.ec2.terminate_instances(InstanceIds=[nat.instance])
    group = nat.scene.groups[OWN]
    nat.world.autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=2)
    return Nat(nat.scene, nat.scene.members(OWN)[-1])


def test_terminating_hooks_are_not_ours(nat):
    add_hook(nat, "drain", "TERMINATING")
    assert nat.claim().code == 0
    assert nat.answers == ["CONTINUE"]


def test_several_launching_hooks_need_a_name(nat):
    add_hook(nat, "inventory")
    nat = relaunched(nat)

    ran = nat.claim()

    assert ran.code == 1, ran
    assert "--lifecycle-hook" in ran.error
    assert HOOK in ran.error
    assert "inventory" in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"], "the launch failed, and the group hears of it at once"


def test_the_named_hook_is_completed_and_no_other(nat):
    add_hook(nat, "inventory")
    nat = relaunched(nat)
    ran = nat.claim("--lifecycle-hook", HOOK)
    assert ran.code == 0, ran
    [completion] = [c for c in nat.world.completions if c.instance_id == nat.instance]
    assert (completion.hook, completion.result) == (HOOK, "CONTINUE")
    assert nat.state == "Pending:Wait", "the other hook is still waiting"


def test_the_name_does_not_matter_once_no_hook_waits(nat):
    assert nat.claim("--lifecycle-hook", HOOK).code == 0
    again = nat.claim("--lifecycle-hook", HOOK)
    assert again.code == 0, again
    assert "nothing to do" in again.stdout
    assert nat.answers == ["CONTINUE"]


def test_a_name_that_the_group_does_not_have(nat):
    ran = nat.claim("--lifecycle-hook", "typo")
    assert ran.code == 1, ran
    assert '"typo"' in ran.error
    assert HOOK in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"]


def test_a_hook_that_somebody_else_completed_meanwhile(nat):
    nat.world.weather("CreateRoute", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("CreateRoute")
        nat.world.autoscaling.complete_lifecycle_action(
            AutoScalingGroupName=nat.scene.groups[OWN],
            LifecycleHookName=HOOK,
            InstanceId=nat.instance,
            LifecycleActionResult="CONTINUE",
        )
        ran = running.wait()
    assert ran.code == 0, ran
    assert "No active Lifecycle Action" in ran.stderr
    assert nat.owns(nat.scene.private_tables[OWN])


def test_auto_scaling_denies_the_completion(nat):
    nat.world.deny("CompleteLifecycleAction")
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert f"completing lifecycle hook {HOOK}" in ran.error
    assert "AccessDenied" in ran.error
    assert nat.owns(nat.scene.private_tables[OWN])


def test_auto_scaling_denies_the_lookup_in_a_group(nat):
    nat.world.deny("DescribeAutoScalingInstances")
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert "AccessDenied" in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None


@pytest.mark.parametrize("imds", ["InService", None])
def test_auto_scaling_denies_the_lookup_of_the_hooks(nat, imds):
    if imds is None:
        path = "/latest/meta-data/autoscaling/target-lifecycle-state"
        rule = Rule(None, Body("Not Found", 404), service="imds", path=path)
        nat.world.weather(rule)
    nat.world.deny("DescribeLifecycleHooks")
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert "describing the lifecycle hooks" in ran.error
    assert ran.error.count("AccessDenied") == 1
    assert nat.route(nat.scene.private_tables[OWN]) is None


def test_auto_scaling_denies_the_lookup_outside_a_group(scene):
    nat = Nat(scene, scene.launch_instance(scene.public_subnets[OWN]))
    nat.world.deny("DescribeAutoScalingInstances")
    ran = nat.claim()
    assert ran.code == 0, ran
    assert "AccessDenied" in ran.stderr
    assert nat.owns(scene.private_tables[OWN])
    assert nat.called["DescribeAutoScalingInstances"] <= 3, "nobody waits for that"
