"""What SAM makes of template.yaml, without an account, a region or a network.

    expand.py cloudformation TEMPLATE       the CloudFormation template that a deploy would create
    expand.py oracle TEMPLATE               what it says about functions, triggers and queues, as JSON in a normal form

The JSON is the other opinion against which the local runner's own reading of the template is tested
(local-runner/cloud/tests/oracle.rs). Nothing here knows how the runner reads: SAM expands globals, events and
destinations, and the few intrinsic functions that it leaves are resolved below.
"""

import json
import re
import sys

from samcli.lib.translate.sam_template_validator import SamTemplateValidator
from samcli.yamlhelper import yaml_parse

# Each set of parameters is expanded and compared on its own; the second one moves every kind of value.
CASES = [
    {},
    {
        "Architecture": "x86_64",
        "DispatchSchedule": "rate(5 minutes)",
        "EmailBatchSize": "50",
        "EmailConcurrency": "9",
        "EmailSoftTimeoutSeconds": "200",
        "EmailTimeoutSeconds": "300",
        "HealthWorkerName": "celery",
        "PublicUrl": "https://mail.example.test",
        "SecurityGroupIds": "sg-0123456789abcdef0",
        "SubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    },
]

REGION = "us-east-1"
ACCOUNT = "000000000000"
QUEUE_URLS = "http://127.0.0.1:9000"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "local",
    "AWS::URLSuffix": "amazonaws.com",
}
NO_VALUE = object()


class NoManagedPolicies:
    """Names of managed policies would have to be asked of IAM; the template uses SAM's own policy templates."""

    def load(self):
        return {}


def expanded(path):
    with open(path, encoding="utf-8") as file:
        source = yaml_parse(file.read())
    validator = SamTemplateValidator(source, NoManagedPolicies(), region=REGION)
    return validator.get_translated_template_if_valid()


class Stack:
    """The expanded template with values for its parameters."""

    def __init__(self, template, given):
        self.resources = template["Resources"]
        self.conditions = template.get("Conditions", {})
        self.parameters = {}
        for name, declared in template.get("Parameters", {}).items():
            value = given.get(name, declared.get("Default", f"<{name}>"))
            if declared["Type"] == "CommaDelimitedList":
                value = [item for item in str(value).split(",") if item]
            self.parameters[name] = value

    def of_type(self, kind):
        for name, resource in self.resources.items():
            if resource["Type"] == kind:
                yield name, self.value(resource.get("Properties", {}))

    def value(self, node):
        """The node with every intrinsic function resolved."""
        if isinstance(node, list):
            return [item for item in map(self.value, node) if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, argument), = node.items()
            if name == "Ref":
                return self.reference(argument)
            if name.startswith("Fn::"):
                return self.call(name[4:], argument)
        resolved = {key: self.value(item) for key, item in node.items()}
        return {key: item for key, item in resolved.items() if item is not NO_VALUE}

    def call(self, name, argument):
        if name == "GetAtt":
            resource, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
            return self.attribute(resource, attribute)
        if name == "Join":
            separator, items = argument
            return separator.join(text(item) for item in self.value(items))
        if name == "Split":
            separator, whole = argument
            return self.value(whole).split(separator)
        if name == "Select":
            index, items = argument
            return self.value(items)[int(index)]
        if name == "If":
            condition, yes, no = argument
            return self.value(yes if self.truth(self.conditions[condition]) else no)
        if name == "Sub":
            pattern, own = argument if isinstance(argument, list) else (argument, {})
            return self.substituted(pattern, self.value(own))
        raise SystemExit(f"expand.py does not know Fn::{name}; teach it")

    def truth(self, node):
        (name, argument), = node.items()
        if name == "Condition":
            return self.truth(self.conditions[argument])
        if name == "Fn::Equals":
            left, right = (text(self.value(side)) for side in argument)
            return left == right
        if name == "Fn::Not":
            return not self.truth(argument[0])
        if name in ("Fn::And", "Fn::Or"):
            return (all if name == "Fn::And" else any)(self.truth(part) for part in argument)
        raise SystemExit(f"expand.py does not know the condition {name}; teach it")

    def substituted(self, pattern, own):
        def one(match):
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in own:
                return text(own[name])
            return text(self.attribute(*name.split(".", 1)) if "." in name else self.reference(name))

        return re.sub(r"\$\{([^}]+)\}", one, pattern)

    def reference(self, name):
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        if self.resources[name]["Type"] == "AWS::SQS::Queue":
            return f"{QUEUE_URLS}/{ACCOUNT}/{self.name(name)}"
        return self.name(name)

    def attribute(self, resource, attribute):
        kind, name = self.resources[resource]["Type"], self.name(resource)
        if (kind, attribute) == ("AWS::SQS::Queue", "Arn"):
            return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
        if (kind, attribute) == ("AWS::SQS::Queue", "QueueName"):
            return name
        if (kind, attribute) == ("AWS::SQS::Queue", "QueueUrl"):
            return self.reference(resource)
        if (kind, attribute) == ("AWS::Lambda::Function", "Arn"):
            return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
        return f"{resource}.{attribute}"

    def name(self, resource):
        """The stated name, or the logical id where CloudFormation would make one up."""
        properties = self.resources[resource].get("Properties", {})
        stated = self.value(properties.get("QueueName", properties.get("FunctionName")))
        if stated and self.resources[resource]["Type"] in ("AWS::SQS::Queue", "AWS::Lambda::Function"):
            return stated
        return resource + (".fifo" if properties.get("FifoQueue") else "")


def text(value):
    """A scalar as CloudFormation hands it over where a string is wanted."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def named(arn):
    """The function of an ARN or name."""
    return arn.rsplit(":", 1)[-1]


def number(value):
    return None if value is None else int(value)


def functions(stack):
    asynchronous = {named(config["FunctionName"]): config for _, config in stack.of_type("AWS::Lambda::EventInvokeConfig")}
    for logical_id, function in stack.of_type("AWS::Lambda::Function"):
        config = asynchronous.get(stack.name(logical_id), {})
        on_failure = config.get("DestinationConfig", {}).get("OnFailure", {})
        variables = function.get("Environment", {}).get("Variables", {})
        yield logical_id, {
            "timeout_seconds": int(function.get("Timeout", 3)),
            "memory_mib": int(function.get("MemorySize", 128)),
            "reserved_concurrency": number(function.get("ReservedConcurrentExecutions")),
            "environment": {name: text(value) for name, value in variables.items()},
            "async_retries": int(config.get("MaximumRetryAttempts", 2)),
            "async_age_seconds": int(config.get("MaximumEventAgeInSeconds", 21600)),
            "async_failures_to": on_failure.get("Destination"),
        }


def event_sources(stack):
    for logical_id, mapping in stack.of_type("AWS::Lambda::EventSourceMapping"):
        yield logical_id, {
            "function": named(mapping["FunctionName"]),
            "queue": mapping["EventSourceArn"],
            "batch_size": int(mapping.get("BatchSize", 10)),
            "window_seconds": int(mapping.get("MaximumBatchingWindowInSeconds", 0)),
            "max_concurrency": number(mapping.get("ScalingConfig", {}).get("MaximumConcurrency")),
            "reports_item_failures": "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", []),
            "enabled": mapping.get("Enabled", True),
        }


def schedules(stack):
    def one(service, schedule, target):
        retry = target.get("RetryPolicy", {})
        return {
            "function": named(target["Arn"]),
            "service": service,
            "expression": schedule["ScheduleExpression"],
            "time_zone": schedule.get("ScheduleExpressionTimezone", "UTC"),
            "input": target.get("Input"),
            "max_age_seconds": int(retry.get("MaximumEventAgeInSeconds", 86400)),
            "max_retries": int(retry.get("MaximumRetryAttempts", 185)),
            "dead_letters_to": target.get("DeadLetterConfig", {}).get("Arn"),
            "enabled": schedule.get("State", "ENABLED") == "ENABLED",
        }

    for logical_id, schedule in stack.of_type("AWS::Scheduler::Schedule"):
        yield logical_id, one("scheduler", schedule, schedule["Target"])
    for logical_id, rule in stack.of_type("AWS::Events::Rule"):
        if "ScheduleExpression" in rule:
            yield logical_id, one("rule", rule, rule["Targets"][0])


def routes(stack):
    for _, api in stack.of_type("AWS::ApiGatewayV2::Api"):
        for path, methods in api["Body"]["paths"].items():
            for method, operation in methods.items():
                # …/functions/<ARN>/invocations
                function = named(operation["x-amazon-apigateway-integration"]["uri"].split("/")[-2])
                method = "ANY" if method == "x-amazon-apigateway-any-method" else method.upper()
                yield f"{method} {path}", function


def queues(stack):
    for logical_id, properties in stack.of_type("AWS::SQS::Queue"):
        attributes = {
            name: value if isinstance(value, dict) else text(value)
            for name, value in properties.items()
            if name not in ("QueueName", "Tags")
        }
        yield logical_id, {"name": stack.name(logical_id), "attributes": attributes}


def oracle(path):
    template = yaml_parse(expanded(path))
    cases = []
    for parameters in CASES:
        stack = Stack(template, parameters)
        parts = (functions, event_sources, schedules, routes, queues)
        cases.append({"parameters": parameters, "expanded": {part.__name__: dict(part(stack)) for part in parts}})
    return json.dumps(cases, indent=2, sort_keys=True) + "\n"


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("cloudformation", "oracle"):
        raise SystemExit(__doc__)
    _, what, path = sys.argv
    sys.stdout.write(expanded(path) if what == "cloudformation" else oracle(path))


if __name__ == "__main__":
    main()
