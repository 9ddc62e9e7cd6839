"""The commands in docs/cloud.md and docs/migration.md: AWS's are marked and exist, ours are run."""

import os
import re
import shlex
import subprocess

import botocore.session
import pytest
from botocore import xform_name

import template

PAGES = [template.ROOT / "docs" / page for page in ("cloud.md", "migration.md")]
CLI_OPTIONS = {"cli-binary-format", "query"}
CLI_OWN = {("s3", "cp"), ("cloudformation", "deploy")}  # commands that are no operation of an API
FILES = {("iot-data", "update-thing-shadow"), ("lambda", "invoke")}  # write their answer into a file


def commands():
    for page in PAGES:
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                command, _, comment = line.strip().partition(" #")
                if command:
                    yield page.name, " ".join(command.split()), comment.strip()


def test_the_others_are_run():
    """Ours by the test below, make's by the script that runs the tests."""
    script = (template.ROOT / "cloud" / "test.sh").read_text()
    others = {c for _, c, _ in commands() if not needs_aws(c) and not c.startswith("edge-warden ")}
    assert others
    for command in others:
        assert command.startswith("make ") and f"    {command} " in script, command


def needs_aws(command):
    return command.startswith(("aws ", "gdk "))


def test_every_command_that_needs_aws_says_so():
    said = [(command, comment) for _, command, comment in commands()]
    assert len(said) >= 10
    for command, comment in said:
        assert needs_aws(command) == (comment == "AWS"), command


@pytest.mark.parametrize("command", [c for _, c, _ in commands() if c.startswith("aws ")])
def test_aws_knows_the_command_and_its_options(command):
    words = shlex.split(command.split(" > ")[0])
    service, operation, rest = words[1], words[2], words[3:]
    if (service, operation) in CLI_OWN:
        return
    model = botocore.session.get_session().get_service_model(service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(names[operation]).input_shape
    members = {xform_name(member, "-"): member for member in shape.members}
    options = {word[2:] for word in rest if word.startswith("--")} - CLI_OPTIONS
    assert options <= set(members), options - set(members)
    required = {xform_name(member, "-") for member in shape.required_members}
    assert required <= options, required - options
    assert bool(rest and rest[-1].endswith(".json")) == ((service, operation) in FILES)


def test_the_documented_parameters_of_the_stack_are_enough():
    (deploy,) = [c for _, c, _ in commands() if "cloudformation deploy" in c]
    given = dict(re.findall(r"(\w+)=('[^']*'|\S+)", deploy))
    parameters = template.load()["Parameters"]
    assert set(given) <= set(parameters)
    assert {name for name, parameter in parameters.items() if "Default" not in parameter} <= set(given)
    for name, value in given.items():
        pattern = parameters[name].get("AllowedPattern", ".*")
        assert re.search(pattern, value.strip("'")), name


def test_our_own_commands_work(tmp_path):
    config = tmp_path / "config.json"
    config.write_text("{}")
    ours = {c for _, c, _ in commands() if c.startswith("edge-warden ")}
    for command in ours - {"edge-warden status"}:  # the site's tests ask for it, of a running agent
        words = [str(config) if word == "FILE" else word for word in shlex.split(command)[1:]]
        done = subprocess.run([os.environ["EDGE_WARDEN_BINARY"], *words], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
    others = {c for _, c, _ in commands() if not needs_aws(c)} - ours
    assert others == {"make cloud-package"}, "and that one by cloud/test.sh, which packages first"
