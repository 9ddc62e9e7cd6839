"""The function's crate: apart from the gateway's, small, and under allowed licences only."""

import os
import pathlib
import re
import subprocess
import zipfile

import pytest

import template

CRATE = template.ROOT / "cloud" / "mitigation"


def cargo(*arguments, cwd=CRATE):
    done = subprocess.run(["cargo", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def allowed_licences():
    """The list the gateway's crate is held to."""
    listed = re.search(r"^allow = \[(.*?)\]", (template.ROOT / "deny.toml").read_text(), re.S | re.M)
    return set(re.findall(r'"([^"]+)"', listed[1]))


def satisfied(expression, allowed):
    """Whether an SPDX expression of OR, AND (binding closer), `/` for OR and parentheses can be satisfied."""
    tokens = re.findall(r"\(|\)|[^()\s]+(?: WITH [^()\s]+)?", expression.replace("/", " OR "))

    def alternatives():
        holds = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            holds = conjunction() or holds
        return holds

    def conjunction():
        holds = term()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            holds = term() and holds
        return holds

    def term():
        token = tokens.pop(0)
        if token == "(":
            holds = alternatives()
            assert tokens.pop(0) == ")", expression
            return holds
        return token in allowed

    holds = alternatives()
    assert not tokens, expression
    return holds


@pytest.mark.parametrize(
    "expression, expected",
    [
        ("MIT", True),
        ("MIT/GPL-3.0", True),
        ("GPL-3.0 OR Apache-2.0", True),
        ("Apache-2.0 AND ISC", True),
        ("MIT AND GPL-3.0", False),
        ("GPL-2.0-only", False),
        ("(MIT OR GPL-3.0) AND ISC", True),
        ("GPL-3.0 OR (MIT AND LGPL-3.0)", False),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", True),
        ("GPL-2.0 WITH Classpath-exception-2.0", False),
    ],
)
def test_the_check_of_licences_can_fail(expression, expected):
    assert satisfied(expression, allowed_licences()) == expected


def test_nothing_in_the_function_is_under_an_unlisted_licence():
    allowed = allowed_licences()
    assert "MIT" in allowed and not any("GPL" in licence for licence in allowed)
    tree = cargo("tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}\t{l}")
    packages = dict(line.removesuffix(" (*)").split("\t") for line in tree.splitlines())
    assert len(packages) > 50
    refused = {package: licence for package, licence in packages.items() if not satisfied(licence, allowed)}
    assert refused == {}


def test_the_gateways_crate_sees_neither_this_one_nor_the_aws_sdk():
    members = cargo("metadata", "--locked", "--no-deps", "--format-version", "1", cwd=template.ROOT)
    assert "edge-warden-mitigation" not in members
    lock = (template.ROOT / "Cargo.lock").read_text()
    assert not re.search(r'name = "(aws-sdk|lambda)', lock)


def test_one_implementation_of_tls_and_no_openssl():
    names = {line.split()[0] for line in cargo("tree", "--locked", "--prefix", "none").splitlines() if line}
    assert "rustls" in names and "ring" in names
    assert not names & {"openssl-sys", "native-tls", "aws-lc-sys", "aws-config"}


def check_package(package, architecture):
    """One static program for the processor, as `provided.al2023` starts it."""
    with zipfile.ZipFile(package) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.external_attr >> 16) == ("bootstrap", 0o755)
        code = archive.read(entry)
    said = subprocess.run(["file", "-b", "-"], input=code, capture_output=True).stdout.decode()
    assert "static" in said and architecture in said, said
    return code


MACHINES = {"x86_64": "x86-64", "aarch64": "ARM aarch64"}


def test_the_package_is_one_static_file_that_lambda_can_start():
    package = template.ROOT / "target" / "cloud" / "edge-warden-mitigation-dev.zip"
    code = check_package(package, MACHINES[os.uname().machine])
    assert code == pathlib.Path(os.environ["MITIGATION_BINARY"]).read_bytes(), "what the other tests run"
