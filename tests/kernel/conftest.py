"""What tests on packets start from, unless they have surroundings of their own."""

import pytest

from tests.stages.packets import SECOND_BLOCK, Surroundings


@pytest.fixture
def around(nat):
    """Of a NAT whose VPC has both blocks."""
    nat.world.ec2.associate_vpc_cidr_block(VpcId=nat.scene.vpc, CidrBlock=SECOND_BLOCK)
    surroundings = Surroundings(nat)
    yield surroundings
    surroundings.close()
