"""An instance as an Auto Scaling group launches it: moto's, with the facts for its metadata service."""

import base64
from collections.abc import Mapping
from typing import Any

from moto.autoscaling.models import ASG_NAME_TAG, InstanceState
from moto.ec2.models import ec2_backends

from adf_agent.sandbox.imds import Instance

Configuration = Mapping[str, Any]  # {"LaunchTemplate": …} or {"MixedInstancesPolicy": …}, as the API has them


class Launched(InstanceState):
    """moto's state of an instance in its *group*, which remembers the launch template *version* it is made from."""

    def __init__(self, instance: Any, group: Any, version: Any) -> None:
        self.version = version
        protected = group.new_instances_protected_from_scale_in
        super().__init__(instance, "Pending", protected_from_scale_in=protected, autoscaling_group=group)

    @property
    def launch_template(self) -> dict[str, Any]:
        """As DescribeAutoScalingGroups and DescribeAutoScalingInstances have it; moto has the group's own there."""
        template = self.version.template
        return {
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "Version": str(self.version.number),
        }


def saved(group: Any) -> Configuration:
    """The configuration of moto's *group*."""
    if group.mixed_instances_policy:
        return {"MixedInstancesPolicy": group.mixed_instances_policy}
    template = group.ec2_launch_template
    named = {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name}
    return {"LaunchTemplate": {**named, "Version": group.launch_template_version}}


def version(configuration: Configuration, account: str, region: str) -> Any:
    """Moto's version of the launch template that *configuration* resolves to now; "$Default" where it names none."""
    policy = configuration.get("MixedInstancesPolicy")
    named = policy["LaunchTemplate"]["LaunchTemplateSpecification"] if policy else configuration["LaunchTemplate"]
    backend = ec2_backends[account][region]
    if found := named.get("LaunchTemplateId"):
        template = backend.get_launch_template(found)
    else:
        template = backend.get_launch_template_by_name(named["LaunchTemplateName"])
    return template.get_version(named.get("Version", "$Default"))


def launch(group: Any, configuration: Configuration, address: str) -> tuple[Launched, Instance]:
    """One more instance of moto's *group*, Pending, with *address*, and what its metadata service says."""
    made_from = version(configuration, group.account_id, group.region)
    # The group's win: https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-tagging.html
    tags = {**made_from.instance_tags, **group.get_propagated_tags(), ASG_NAME_TAG: group.name}
    kind, zone = made_from.instance_type or "t3.micro", group.availability_zones[0]
    reservation = group.ec2_backend.run_instances(
        made_from.image_id,
        1,
        made_from.user_data,
        made_from.security_groups,
        instance_type=kind,
        is_instance_type_default=False,
        tags={"instance": tags},
        placement=zone,
        subnet_id=group.vpc_zone_identifier.split(",")[0] if group.vpc_zone_identifier else None,
        launch_template={"LaunchTemplateId": made_from.template.id, "Version": str(made_from.number)},
        launch_config=None,
        associate_public_ip=None,
    )
    (instance,) = reservation.instances
    group.instance_states.append(state := Launched(instance, group, made_from))
    user_data = base64.b64decode(str(made_from.user_data)) if made_from.user_data else None
    facts = Instance(
        instance_id=instance.id,
        region=group.region,
        zone=zone,
        account=group.account_id,
        image_id=made_from.image_id,
        type=kind,
        private_ip=address,
        user_data=user_data,
        tags=tags,
        life_cycle=made_from.data.get("InstanceMarketOptions", {}).get("MarketType", "on-demand"),
    )
    return state, facts
