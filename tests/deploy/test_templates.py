"""What can be said of the templates, the user data and the image recipe without deploying them."""

import difflib
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
from cfnlint import decode
from ruamel.yaml import YAML

from tests.nat import ROOT

TEMPLATES = sorted((ROOT / "cloudformation").glob("*.yaml"))
NATS = ROOT / "cloudformation" / "ha-nat.yaml"
VPC = ROOT / "cloudformation" / "ha-nat-vpc.yaml"
USER_DATA = ROOT / "userdata" / "user-data.yaml"
IMAGE = ROOT / "userdata" / "image.pkr.hcl"
# EC2 user guide, "Run commands when you launch an EC2 instance": before it is encoded.
MOST_USER_DATA = 16384
# CloudFormation user guide, "CloudFormation quotas": bytes of a parameter's value.
LONGEST_PARAMETER = 4096


def load(path: Path) -> dict[str, Any]:
    template, problems = decode.decode(str(path))
    assert not problems
    return template


@pytest.fixture(scope="module")
def nats() -> dict[str, Any]:
    return load(NATS)


def resources(template: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The properties of all resources of a type."""
    found = [r["Properties"] for r in template["Resources"].values() if r["Type"] == kind]
    assert found
    return found


@pytest.fixture(scope="module")
def launch(nats) -> dict[str, Any]:
    [template] = resources(nats, "AWS::EC2::LaunchTemplate")
    return template["LaunchTemplateData"]


# --- Form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_cfn_lint_finds_nothing(template, tmp_path):
    """In nobody's home: without a name for it, that is root's in a user namespace."""
    done = subprocess.run(
        ["cfn-lint", "--", template],
        capture_output=True,
        text=True,
        env={"PATH": str(ROOT / ".venv" / "bin"), "HOME": str(tmp_path)},
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("path", [*TEMPLATES, USER_DATA], ids=lambda path: path.name)
def test_yaml_is_formatted(path):
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = path.read_text()
    formatted = io.StringIO()
    yaml.dump(yaml.load(text), formatted)
    lines = text.splitlines(), formatted.getvalue().splitlines()
    assert not list(difflib.unified_diff(*lines, "as it is", "formatted", lineterm=""))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_parameter_is_described_and_listed_for_the_console(template):
    content = load(template)
    parameters = content["Parameters"]
    assert all(parameter["Description"].endswith(".") for parameter in parameters.values())
    groups = content["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    listed = [name for group in groups for name in group["Parameters"]]
    assert sorted(listed) == sorted(parameters)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_text_parameter_is_constrained(template):
    for name, parameter in load(template)["Parameters"].items():
        if parameter["Type"] == "String":
            assert {"AllowedPattern", "AllowedValues"} & set(parameter), name
        if "AllowedPattern" in parameter:
            assert "ConstraintDescription" in parameter, name


def test_both_templates_say_the_same_of_the_same_parameters(nats):
    assert nats["Rules"] == load(VPC)["Rules"]
    ours = nats["Parameters"]
    others = load(VPC)["Parameters"]
    shared = set(ours) & set(others)
    assert "InstanceType" in shared
    for name in shared:
        assert ours[name] == others[name]


def test_the_whole_vpc_passes_every_shared_parameter_on(nats):
    template = load(VPC)
    [nested] = resources(template, "AWS::CloudFormation::Stack")
    own_choice = {"VpcId", "PublicSubnetA", "PublicSubnetB", "ClientCidr"}
    shared = set(nats["Parameters"]) & set(template["Parameters"])
    assert set(nested["Parameters"]) == own_choice | shared
    for name in shared:
        assert nested["Parameters"][name] == {"Ref": name}


def accepted(parameter: dict[str, Any], value: str) -> bool:
    return re.fullmatch(parameter["AllowedPattern"], value) is not None


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "ClientCidr",
            ["10.0.0.0/16", "192.168.4.0/22", "100.64.0.0/10"],
            [
                "",
                "10.0.0.0",
                "10.0.0.256/24",
                "10.0.0.0/33",
                "0.0.0.0/0",
                "10.0.0.0/16,10.1.0.0/16",
            ],
        ),
        ("ClientCidr2", ["", "10.0.0.0/16"], ["10.0.0/16", "::/0"]),
        ("PublicSubnetB", ["", "subnet-0123456789abcdef0"], ["subnet-", "vpc-12345678"]),
        (
            "HanatUrlX86",
            [
                "",
                "https://downloads.example.com/hanat/hanat-0.1.0.tar.gz",
                "https://example.com:8443/x?versionId=a%2Fb&c=d",
                "s3://bucket/a/b.tar.gz",
            ],
            [
                "http://example.com/x",
                "https://example.com",
                "s3://bucket",
                'https://a/"; id; "',
                "x",
            ],
        ),
        ("HanatSha256X86", ["", "0123456789abcdef" * 4], ["0" * 63, "G" * 64, "A" * 64]),
        (
            "Settings",
            [
                "",
                "HANAT_LOG_FORMAT=json",
                "HANAT_SOURCE=10.0.0.0/8,10.1.0.0/16 HANAT_NO_PROBE=true",
            ],
            ["LOG=json", "HANAT_A=1  HANAT_B=2", "HANAT_A=", "HANAT_A='1'", "HANAT_A=1\nHANAT_B=2"],
        ),
        ("ImageId", ["", "ami-0123456789abcdef0"], ["ami-", "i-0123456789abcdef0"]),
    ],
)
def test_what_parameters_accept(nats, name, good, bad):
    parameter = nats["Parameters"][name]
    assert [value for value in good if not accepted(parameter, value)] == []
    assert [value for value in bad if accepted(parameter, value)] == []


def test_every_instance_type_belongs_to_one_architecture(nats):
    """The rules ask for an archive by type, the conditions choose one by family."""
    types = nats["Parameters"]["InstanceType"]["AllowedValues"]

    def asks(rule: str) -> list[str]:
        _, contains = nats["Rules"][rule]["RuleCondition"]["Fn::And"]
        return contains["Fn::Contains"][0]

    assert asks("Arm64NeedsUrl") + asks("X86NeedsUrl") == types
    families = {equals["Fn::Equals"][1] for equals in nats["Conditions"]["IsArm64"]["Fn::Or"]}
    assert {name.partition(".")[0] for name in asks("Arm64NeedsUrl")} == families
    assert families.isdisjoint(name.partition(".")[0] for name in asks("X86NeedsUrl"))


# --- User data ------------------------------------------------------------------------------------


def test_the_template_holds_the_user_data_word_for_word(launch):
    text, _ = launch["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert text == USER_DATA.read_text(), "run: make templates"


def test_user_data_has_one_place_for_each_thing_to_be_filled_in(launch):
    """In a comment, say, settings of several lines would end it."""
    _, values = launch["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert sorted(re.findall(r"\$\{(.*?)\}", USER_DATA.read_text())) == sorted(values)


def test_user_data_fits_with_the_longest_parameters():
    url = "https://" + "x" * (LONGEST_PARAMETER - 8)
    settings = "HANAT_A=1\n      " * (LONGEST_PARAMETER // len("HANAT_A=1 "))
    text = USER_DATA.read_text()
    for name, value in (("HanatUrl", url), ("HanatSha256", "0" * 64), ("Settings", settings)):
        text = text.replace(f"${{{name}}}", value)
    assert len(text) > 2 * LONGEST_PARAMETER
    assert len(text) <= MOST_USER_DATA


def test_every_unit_is_enabled_wherever_hanat_is_put():
    """By user data and in an image; the packages are looked at when they are made."""
    units = " ".join(unit.name for unit in sorted((ROOT / "userdata").glob("*.service")))
    assert units == "hanat-claim.service hanat-watch.service"
    assert f" systemctl enable {units}\n" in USER_DATA.read_text()
    assert f" systemctl start {units}\n" in USER_DATA.read_text()
    assert f'"systemctl enable {units}"' in IMAGE.read_text()


# --- Security -------------------------------------------------------------------------------------


def test_metadata_is_version_2_and_does_not_leave_the_instance(launch):
    assert launch["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }


def test_the_disk_is_encrypted(launch):
    for mapping in launch["BlockDeviceMappings"]:
        assert mapping["Ebs"]["Encrypted"] is True


def test_nobody_logs_in_from_outside(nats, launch):
    assert "KeyName" not in launch
    [group] = resources(nats, "AWS::EC2::SecurityGroup")
    rules = [rule.get("Fn::If", [None, rule])[1] for rule in group["SecurityGroupIngress"]]
    sources = {rule["CidrIp"]["Ref"] for rule in rules}
    assert sources == {"ClientCidr", "ClientCidr2", "ClientCidr3"}
    [peers] = resources(nats, "AWS::EC2::SecurityGroupIngress")
    assert peers["GroupId"] == peers["SourceSecurityGroupId"] == {"Ref": "SecurityGroup"}
    assert peers["IpProtocol"] == "icmp"


def test_no_action_and_no_mutated_resource_is_a_wildcard(nats):
    [role] = resources(nats, "AWS::IAM::Role")
    policies = [policy.get("Fn::If", [None, policy])[1] for policy in role["Policies"]]
    statements = [s for p in policies for s in p["PolicyDocument"]["Statement"]]
    assert {statement["Effect"] for statement in statements} == {"Allow"}
    on_everything = {"Look", "SessionManager"}
    for statement in statements:
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            assert re.fullmatch("[a-z0-9]+:[A-Za-z]+", action)
        assert (statement["Resource"] == "*") == (statement["Sid"] in on_everything)
    [look] = [statement for statement in statements if statement["Sid"] == "Look"]
    assert all(":Describe" in action for action in look["Action"])


# --- Image ----------------------------------------------------------------------------------------


def test_the_image_recipe_checks_before_it_unpacks():
    recipe = hcl2.loads(IMAGE.read_text())
    [build] = recipe["build"]
    names = [next(iter(source.values()))["name"].strip('"') for source in build["source"]]
    assert names == ["arm64", "x86_64"]
    sums = {
        name.strip('"') for variable in recipe["variable"] for name in variable if "sha" in name
    }
    assert sums == {"sha256_arm64", "sha256_x86_64"}
    [script] = [p['"shell"']["inline"] for p in build["provisioner"] if '"shell"' in p]
    assert "sha256sum --check" in script[0]
    assert "--extract" in script[1]
