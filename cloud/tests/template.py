"""The template as CloudFormation would carry it out: conditions decided, references followed."""

import copy
import functools
import pathlib
import re

import yaml
from cfnlint.decode.cfn_yaml import loads

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = ROOT / "cloud" / "template.yaml"
PSEUDO = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "123456789012"}
NEEDED = {"CoreThings": "gateway-1", "LocalThings": "cam-*", "CodeBucket": "code"}


@functools.cache
def _loaded():
    template = loads(PATH.read_text())
    return template[0] if isinstance(template, tuple) else template


def load():
    """The template as written; a copy of its own for each caller."""
    return copy.deepcopy(_loaded())


def arn(service, resource):
    return f"arn:aws:{service}:us-east-1:123456789012:{resource}"


class Rendered:
    """Resources and outputs for these parameters. A reference to what a condition leaves out is an error."""

    def __init__(self, template=None, **parameters):
        self.template = template or load()
        self.parameters = {name: str(p.get("Default", "")) for name, p in self.template["Parameters"].items()}
        self.parameters |= NEEDED | {name: str(value) for name, value in parameters.items()}
        unknown = set(self.parameters) - set(self.template["Parameters"])
        assert not unknown, unknown
        present = {name: r for name, r in self.template["Resources"].items() if self.holds(r.get("Condition"))}
        self._present = present
        self.resources = {
            name: {"Type": r["Type"], "Properties": self.value(r.get("Properties", {}))} for name, r in present.items()
        }
        outputs = {name: o for name, o in self.template["Outputs"].items() if self.holds(o.get("Condition"))}
        self.outputs = {name: self.value(output["Value"]) for name, output in outputs.items()}

    def of(self, kind):
        """Properties of all resources of a type, by name."""
        return {name: r["Properties"] for name, r in self.resources.items() if r["Type"] == kind}

    def holds(self, name):
        return name is None or self.condition(self.template["Conditions"][name])

    def condition(self, condition):
        ((function, arguments),) = condition.items()
        match function:
            case "Condition":
                return self.holds(arguments)
            case "Fn::Equals":
                left, right = map(self.value, arguments)
                return str(left) == str(right)
            case "Fn::Not":
                return not self.condition(arguments[0])
            case "Fn::And":
                return all(map(self.condition, arguments))
        raise AssertionError(f"unknown condition {function}")

    def value(self, value):
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, arguments),) = value.items()
            if function == "Ref":
                return self.reference(arguments)
            if function == "Fn::GetAtt":
                name, attribute = arguments if isinstance(arguments, list) else arguments.split(".", 1)
                return self.attribute(name, attribute)
            if function == "Fn::Sub":
                text, own = arguments if isinstance(arguments, list) else (arguments, {})
                own = {name: self.value(item) for name, item in own.items()}
                given = lambda name: own[name] if name in own else self.substitute(name)
                return re.sub(r"\$\{([^}]+)\}", lambda match: given(match[1]), text)
            if function == "Fn::If":
                name, yes, no = arguments
                return self.value(yes if self.holds(name) else no)
            assert not function.startswith("Fn::"), f"unknown function {function}"
        return {key: self.value(item) for key, item in value.items()}

    def substitute(self, name):
        resource, dot, attribute = name.partition(".")
        return self.attribute(resource, attribute) if dot else self.reference(name)

    def reference(self, name):
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        resource = self._present[name]
        properties = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::SNS::Topic":
                return arn("sns", name)
            case "AWS::SQS::Queue":
                return f"https://sqs.us-east-1.amazonaws.com/123456789012/{name}"
            case "AWS::IoT::ThingGroup":
                return self.value(properties["ThingGroupName"])
            case "AWS::IoT::Policy":
                return self.value(properties["PolicyName"])
            case "AWS::IoT::CustomMetric":
                return self.value(properties["MetricName"])
        return name

    def attribute(self, name, attribute):
        resource = self._present[name]
        if attribute != "Arn":
            return f"{name}.{attribute}"
        match resource["Type"]:
            case "AWS::IoT::ThingGroup":
                return arn("iot", f"thinggroup/{self.reference(name)}")
            case "AWS::Logs::LogGroup":
                return arn("logs", f"log-group:{name}:*")
        return arn(resource["Type"].split("::")[1].lower(), name)


def recipe():
    """The component's recipe."""
    return yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
