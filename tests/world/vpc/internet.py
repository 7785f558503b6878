"""The Internet beyond the gateway: a host that clients talk to, AWS's endpoints, one to download
from, and whatever else has a name."""

from ipaddress import IPv4Interface
from pathlib import Path

from cryptography import x509

from tests.world.authority import write_certificate
from tests.world.autoscaling import REGION
from tests.world.namespace import Namespace
from tests.world.world import World

from .downloads import Downloads
from .internet_host import InternetHost

# RFC 5737's blocks for documentation: nobody's.
HOST, _AWS, _PROBED = "203.0.113.10", "198.51.100.10", "198.51.100.20"
_DOWNLOADS = "203.0.113.20"
NAMES = {
    f"ec2.{REGION}.amazonaws.com": _AWS,
    f"autoscaling.{REGION}.amazonaws.com": _AWS,
    f"s3.{REGION}.amazonaws.com": _AWS,
    "checkip.amazonaws.com": _PROBED,
    "www.example.com": _PROBED,
    "downloads.example.com": _DOWNLOADS,
}


class Internet(Namespace):
    """`world` answers in it as AWS does, by HTTPS, and so do the pages that an egress probe asks
    for."""

    def __init__(self, world: World, folder: Path) -> None:
        """Puts the certificate that clients must trust into the folder."""
        super().__init__()
        for address in (HOST, _AWS, _PROBED, _DOWNLOADS):
            self.add_address("lo", IPv4Interface(address))
        self.host = InternetHost(self, HOST)
        self.certificate, key = write_certificate(folder, [x509.DNSName(name) for name in NAMES])
        tls = str(self.certificate), str(key)
        self._world = world
        self._aws, self._probed = (self.bound_socket(address, 443) for address in (_AWS, _PROBED))
        world.listen(sock=self._aws, tls=tls)
        world.probe.http.listen(sock=self._probed, tls=tls)
        self.downloads = Downloads(lambda: self.bound_socket(_DOWNLOADS, 443), tls)

    def close(self) -> None:
        self._world.stop_listening(self._aws)
        self._world.probe.http.stop(self._probed)
        self.downloads.close()
        self.host.close()
        super().close()
