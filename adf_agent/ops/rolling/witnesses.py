"""What others say of a roll's instances: load balancers and alarms, each by one call."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from adf_agent import aws
from adf_agent.ops.rolling.errors import Refused

Said = Iterator[tuple[str, str]]  # instance id, and what is held against it: "" where it is healthy


class Clients(Protocol):
    """boto3's, by service, each made when it is first asked for."""

    def client(self, service: str) -> Any: ...


def alarms(clients: Clients, names: Sequence[str]) -> dict[str, str]:
    """The state of each of *names* that there is. Raises Refused.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_DescribeAlarms.html
    """
    if not names:
        return {}
    with aws.asking(Refused, "cloudwatch:DescribeAlarms", ", ".join(names)):
        kinds = ["MetricAlarm", "CompositeAlarm"]  # without them the latter are left out
        answer = clients.client("cloudwatch").describe_alarms(AlarmNames=[*names], AlarmTypes=kinds)
    both = (*answer.get("MetricAlarms", ()), *answer.get("CompositeAlarms", ()))
    return {each["AlarmName"]: each["StateValue"] for each in both}


def balancers(
    clients: Clients, target_groups: Sequence[str], load_balancers: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
    """What they hold against the instances *names*: "" where all that have a word say healthy. Raises Refused.

    Those that a load balancer has no word on yet are missing.
    """
    found: dict[str, str] = {}
    for place in target_groups if names else ():
        found |= {name: found.get(name) or against for name, against in _targets(clients.client("elbv2"), place, names)}
    for place in load_balancers if names else ():
        found |= {name: found.get(name) or against for name, against in _classic(clients.client("elb"), place, names)}
    return found


def recognition(clients: Clients, target_groups: Sequence[str], load_balancers: Sequence[str]) -> int:
    """Seconds until the slowest of them has called a new, healthy instance so. Raises Refused.

    As many checks as its threshold has, and one interval more, as the first check may be as late.
    https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
    """
    checks: list[tuple[int, int]] = []
    if target_groups:
        with aws.asking(Refused, "elasticloadbalancing:DescribeTargetGroups", ", ".join(target_groups)):
            found = clients.client("elbv2").describe_target_groups(TargetGroupArns=[*target_groups])["TargetGroups"]
        checks += [(each["HealthCheckIntervalSeconds"], each["HealthyThresholdCount"]) for each in found]
    if load_balancers:
        request = {"LoadBalancerNames": [*load_balancers]}
        with aws.asking(Refused, "elasticloadbalancing:DescribeLoadBalancers", ", ".join(load_balancers)):
            found = clients.client("elb").describe_load_balancers(**request)["LoadBalancerDescriptions"]
        classic = [each["HealthCheck"] for each in found if "HealthCheck" in each]
        checks += [(each["Interval"], each["HealthyThreshold"]) for each in classic]
    return max((interval * (threshold + 1) for interval, threshold in checks), default=0)


def _targets(client: Any, arn: str, names: Sequence[str]) -> Said:
    """https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html."""
    with aws.asking(Refused, "elasticloadbalancing:DescribeTargetHealth", f"target group {arn.split('/')[-2]}"):
        answer = client.describe_target_health(TargetGroupArn=arn, Targets=[{"Id": name} for name in names])
    for each in answer["TargetHealthDescriptions"]:
        health = each["TargetHealth"]
        if health["State"] == "healthy":
            yield each["Target"]["Id"], ""
        elif health["State"] == "unhealthy":
            yield each["Target"]["Id"], health.get("Description") or health.get("Reason", "unhealthy")


def _classic(client: Any, balancer: str, names: Sequence[str]) -> Said:
    """https://docs.aws.amazon.com/elasticloadbalancing/2012-06-01/APIReference/API_InstanceState.html."""
    answer: Mapping[str, Any] = {}
    place, early = f"load balancer {balancer}", ("InvalidInstance", "InvalidEndPoint")  # one is not registered yet
    with aws.asking(Refused, "elasticloadbalancing:DescribeInstanceHealth", place, early):
        instances = [{"InstanceId": name} for name in names]
        answer = client.describe_instance_health(LoadBalancerName=balancer, Instances=instances)
    for each in answer.get("InstanceStates", ()):
        if each["State"] == "InService":
            yield each["InstanceId"], ""
        elif each.get("ReasonCode") == "Instance":  # with "ELB" its registration is under way
            yield each["InstanceId"], each.get("Description") or each["State"]
