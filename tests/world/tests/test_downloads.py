"""The host that instances download from, and what can go wrong with it: what does curl see?"""

import pytest

from tests.skipping import program
from tests.stages.two_zones import TwoZones
from tests.world.scene import ZONES
from tests.world.weather import ErrorReply, Hang, Reset, ShortBody, Trickle

OWN = ZONES[0]
URL, CONTENT = "https://downloads.example.com/hanat.gz", bytes(range(256)) * 40


@pytest.fixture
def stage(isolated, world):
    with TwoZones(world, zones=[OWN]) as stage:
        stage.vpc.internet.downloads.files["/hanat.gz"] = CONTENT
        yield stage


@pytest.fixture
def curl(stage, tmp_path):
    """Runs it on an instance with a way out; returns its exit code and what it was sent."""
    path = program("curl")
    instance = stage.vpc.instance(stage.launch_client(stage.scene.public_subnets[OWN]))
    certificate, output = stage.vpc.internet.certificate, tmp_path / "output"

    def run(*options: str, url: str = URL) -> tuple[int, bytes]:
        output.unlink(missing_ok=True)
        always = "--silent", "--fail", "--cacert", certificate, "--output", output
        ran = instance.run(path, *always, *options, url)
        return ran.returncode, output.read_bytes() if output.exists() else b""

    return run


def test_curl_sees_what_goes_wrong(stage, curl):
    """Exit codes by curl(1)."""
    downloads = stage.vpc.internet.downloads
    assert curl() == (0, CONTENT)
    assert curl(url=URL + ".sig")[0] == 22
    assert downloads.requests == ["/hanat.gz", "/hanat.gz.sig"]
    downloads.weather("/hanat.gz", ErrorReply(503, "Busy"), times=2)
    assert [curl()[0] for _ in range(3)] == [22, 22, 0]
    for effect, code, got in (
        (Hang(), 28, b""),
        (Reset(), 56, b""),
        (ShortBody(), 18, CONTENT[: len(CONTENT) // 2]),
    ):
        downloads.weather("*", effect, times=1)
        assert curl("--max-time", "1") == (code, got)
    downloads.down()
    assert curl()[0] == 7
    downloads.up()
    assert curl() == (0, CONTENT)


def test_a_slow_download(stage, curl):
    stage.vpc.internet.downloads.weather("*", Trickle(len(CONTENT) / 1.0))
    code, got = curl("--max-time", "0.6")
    assert code == 28
    assert 0 < len(got) < len(CONTENT)
    assert curl("--max-time", "5") == (0, CONTENT)
