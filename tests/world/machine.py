"""An instance as a place to run programs in: a network namespace with what EC2 plugs into it."""

from ipaddress import IPv4Interface

from .namespace import Namespace

# What Amazon Linux and others call the primary interface of a current instance type.
PRIMARY = "ens5"
# EC2 user guide, "Network MTU": jumbo frames within a VPC.
MTU = 9001


class Machine(Namespace):
    """`address` is the primary interface's, with the length of its subnet's prefix. The other end
    of its cable is the VPC's router (Amazon VPC user guide, "Subnet sizing": the subnet's first
    address), a namespace of its own that leads nowhere yet."""

    def __init__(self, mac: str, address: IPv4Interface) -> None:
        super().__init__()
        gateway = address.network[1]
        self.router = Namespace()
        self.add_veth(PRIMARY, self.router, "subnet", mac=mac, mtu=MTU)
        self.router.add_address("subnet", IPv4Interface((gateway, address.network.prefixlen)))
        self.add_address(PRIMARY, address)
        self.add_route("0.0.0.0/0", gateway)

    def close(self) -> None:
        super().close()
        self.router.close()
