"""An instance as a place to run programs in: a network namespace with what EC2 plugs into it."""

from ipaddress import IPv4Interface

from .namespace import Namespace

# What Amazon Linux and others call the primary interface of a current instance type.
PRIMARY = "ens5"
# As a kernel has them by itself (Documentation/networking/ip-sysctl.rst): a new namespace has those
# of the machine's first one, where Docker, say, has changed them.
_BY_ITSELF = {
    "ip_forward": 0,
    "conf/all/rp_filter": 0,
    "conf/default/rp_filter": 0,
    "conf/all/send_redirects": 1,
    "conf/default/send_redirects": 1,
    "conf/all/accept_redirects": 1,
    "conf/default/accept_redirects": 1,
}
# EC2 user guide, "Network MTU": jumbo frames within a VPC.
MTU = 9001


class Machine(Namespace):
    """`address` is the primary interface's, with the length of its subnet's prefix. The other end
    of its cable is `port` of the VPC's router, which answers for the subnet's first address (Amazon
    VPC user guide, "Subnet sizing")."""

    def __init__(self, mac: str, address: IPv4Interface, router: Namespace, port: str) -> None:
        super().__init__()
        self.mac = mac
        self.address = address
        self.router = router
        self.gateway = address.network[1]
        for setting, value in _BY_ITSELF.items():
            self.write_sysctl(f"net/ipv4/{setting}", value)
        self.add_veth(PRIMARY, router, port, mac=mac, mtu=MTU)
        self.add_address(PRIMARY, address)
        self.add_route("0.0.0.0/0", self.gateway)
