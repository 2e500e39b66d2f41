"""Rolls of a group whose instances are simulated, with the credentials of packaging/iam's operator.json."""

from contextlib import ExitStack

import pytest
from fixtures_roll import GROUP, LONG, Shop, alarm, target_group, url
from iam_runs import NAMES, Told, person
from moto.elb.models import elb_backends
from moto.elbv2.models import elbv2_backends

from adf_agent.ops.rolling import guard
from adf_agent.sandbox.autoscaling import AutoScaling
from adf_agent.sandbox.front import AwsFault


def rolls(told: Told) -> None:
    """One that is taken back at its start, one that is left and joined again, one that goes back, one back by hand."""
    with person(told.asked) as someone, ExitStack() as stack:
        place, cloud = someone.place, someone.place.cloud
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(guard, "POLL_SECONDS", 0.05)
        someone.config.done("init")
        shop = Shop(someone.config)
        stack.enter_context(AutoScaling(cloud, shop.launch))
        shop.open(2, "$Latest", TargetGroupARNs=target_group(shop)["TargetGroupARNs"], LoadBalancerNames=_classic(shop))
        _hasten(shop)
        template, role = _with_a_role(shop)
        names = {**NAMES, "Group": GROUP, "LaunchTemplate": template, "InstanceRole": role}
        alarm(shop, "errors", "OK")
        someone.become(place.user("operator", "operator", **names))
        cloud.enforce_permissions()
        quick = ("--yes", "--bake", "0", "--alarm", "errors")
        words = [
            ("plan", url("v2")),
            ("start", url("v2"), *quick),
            ("start", url("v2"), *quick, "--detach"),
            ("status",),
            ("watch",),
            ("start", url("bad"), *LONG),
            ("start", url("v3"), *quick),
            ("back", "--yes"),
        ]
        with place.without("operator", "iam:PassRole"):
            ran = shop("start", url("v2"), *quick)
        told.refused["iam:PassRole"] = ran.code, ran.err
        cloud.faults = [AwsFault("autoscaling:StartInstanceRefresh", "LimitExceeded", times=1)]
        told.came_to["rolls"] = [shop(*each).code for each in words]
        told.came_to["running"] = shop.running()


def _classic(shop: Shop) -> list[str]:
    listener = {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstancePort": 80}
    elb = shop.cloud.client("elb")
    elb.create_load_balancer(LoadBalancerName=GROUP, Listeners=[listener], AvailabilityZones=["eu-west-1a"])
    return [GROUP]


def _with_a_role(shop: Shop) -> tuple[str, str]:
    """The launch template's id, its latest version with an instance profile, and the role's ARN."""
    iam = shop.cloud.client("iam")
    role = iam.create_role(RoleName="web", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.create_instance_profile(InstanceProfileName="web")
    iam.add_role_to_instance_profile(InstanceProfileName="web", RoleName="web")
    more = {"IamInstanceProfile": {"Name": "web"}}
    made = shop.ec2.create_launch_template_version(
        LaunchTemplateName=GROUP, SourceVersion="1", LaunchTemplateData=more
    )["LaunchTemplateVersion"]
    return str(made["LaunchTemplateId"]), str(role)


def _hasten(shop: Shop) -> None:
    """Has the load balancers' checks said to come at once: AWS's least intervals take a canary half a minute."""
    place = shop.cloud.imds.instance
    for group in elbv2_backends[place.account][place.region].target_groups.values():
        group.health_check_interval_seconds = 0
    for balancer in elb_backends[place.account][place.region].load_balancers.values():
        if balancer.health_check:
            balancer.health_check.interval = "0"
