"""packaging/terraform: the same stack as packaging/cloudformation, and a plan that leaves adf-roll its release."""

import base64
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures_templates import (
    APP,
    BUCKET,
    HOOKS,
    MAINTENANCE,
    METADATA,
    PACKAGING,
    TABLE,
    URL,
    WARMUP,
    accounts,
    module,
    network,
    others,
    policy,
    run,
    version,
)

from adf_agent import userdata
from adf_agent.sandbox.autoscaling import AutoScaling
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Instance

ROLLED = "s3://releases/hello/v2.tar.gz"
PROPERTIES = {
    "name": "LifecycleHookName",
    "lifecycle_transition": "LifecycleTransition",
    "heartbeat_timeout": "HeartbeatTimeout",
    "default_result": "DefaultResult",
}
PROVIDER = {
    "region": "eu-west-1",
    "access_key": "sandbox",
    "secret_key": "sandbox",
    "skip_credentials_validation": True,
}


def test_the_terraform_module_says_the_same() -> None:
    """Two templates that drift apart: the one that fewer people use has the old mistake."""
    resources = module("resource")
    group, template = resources["aws_autoscaling_group.app"], resources["aws_launch_template.app"]
    hooks = [{PROPERTIES[key]: value for key, value in hook.items()} for hook in group["initial_lifecycle_hook"]]
    assert hooks == HOOKS
    assert group["launch_template"] == [{"id": "${aws_launch_template.app.id}", "version": "1"}]
    assert group["lifecycle"] == [{"ignore_changes": ["${launch_template[0].version}", "desired_capacity"]}]
    assert (group["health_check_type"], group["health_check_grace_period"]) == ("EC2", 0)
    assert group["default_instance_warmup"] == WARMUP
    assert [*group["instance_maintenance_policy"][0].values()] == [*MAINTENANCE.values()]
    [options] = template["metadata_options"]
    assert (options["http_tokens"], options["instance_metadata_tags"]) == ("required", "enabled")
    assert resources["aws_dynamodb_table.config"]["ttl"] == [{"attribute_name": "Expires", "enabled": True}]
    for kind, name in (("aws_iam_role_policy", "instance"), ("aws_iam_policy", "operator")):
        assert f"/../iam/{name}.json" in resources[f"{kind}.{name}"]["policy"]


def test_what_is_in_use_is_there_until_its_successor_is() -> None:
    """A change of the port or the VPC: what instances and a listener hold can't be destroyed, and the apply hangs."""
    for name in ("aws_lb_target_group.app", "aws_security_group.instance", "aws_security_group.load_balancer"):
        assert module("resource")[name]["lifecycle"] == [{"create_before_destroy": True}]


def test_the_config_of_every_app_outlives_this_one() -> None:
    """A `terraform destroy` of one app takes the config of all of them."""
    assert module("resource")["aws_dynamodb_table.config"]["lifecycle"] == [{"prevent_destroy": True}]


def provider() -> Path | None:
    """A folder of providers that Terraform can be given, with AWS's in it; None where this machine has none."""
    homes = [Path.home() / ".terraform.d", *map(Path, ("/opt", "/usr/share", "/usr/local/share"))]
    for home in homes:
        for depth in range(7):  # PLUGINS/registry.terraform.io/hashicorp/aws/VERSION/SYSTEM/FILE, and one above
            for found in home.glob(f"{'*/' * depth}hashicorp/aws/*/*/terraform-provider-aws*"):
                return found.parents[5]
    return None


class Terraform:
    """The module `app` in a root module of its own, below *folder*, against *cloud*."""

    def __init__(self, cloud: Cloud, folder: Path, plugins: Path) -> None:
        self.folder, self.cloud = folder / "root", cloud
        self.folder.mkdir()
        for name in ("iam", "terraform"):  # with the folders as they stand to each other, and nothing that an init left
            shutil.copytree(PACKAGING / name, folder / "packaging" / name, ignore=shutil.ignore_patterns(".terraform*"))
        self.write()
        self("init", f"-plugin-dir={plugins}")

    def write(self, **more: Any) -> None:
        """Gives the module *more* than it has to be given."""
        vpc, subnets = network(self.cloud)
        given = {
            "source": "../packaging/terraform",
            "app": APP,
            "release_url": URL,
            "release_bucket": BUCKET,
            "image_id": self.cloud.imds.instance.image_id,
            "vpc_id": vpc,
            "subnet_ids": subnets,
            "min_size": 0,
        }
        root = {"module": {"app": {**given, **more}}, "provider": {"aws": PROVIDER}}
        (self.folder / "main.tf.json").write_text(json.dumps(root))

    def __call__(self, *words: str) -> str:
        """What `terraform WORDS…` says, which must go well."""
        environment = {
            "AWS_ENDPOINT_URL": self.cloud.endpoint,
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_CONFIG_FILE": os.devnull,
        }
        done = run("terraform", *words, "-no-color", cwd=self.folder, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_terraform_module_makes_the_same(cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan that never is empty, and by whose apply a roll is undone."""
    plugins = provider()
    if not (plugins and shutil.which("terraform")):
        with capsys.disabled():
            sys.stdout.write("no terraform with AWS's provider here: the module is read, and not applied\n")
        check_placeholders()
        return
    with AutoScaling(cloud, unexpected):
        terraform = Terraform(cloud, tmp_path, plugins)
        terraform.write(app="a" * 100)  # the longest name, of which AWS takes less for some things
        planned = terraform("plan")
        assert all(f"module.app.{kind}.app" in planned for kind in ("aws_lb", "aws_lb_listener", "aws_lb_target_group"))
        # The provider waits a minute for a load balancer: what is applied joins one that is there.
        there = {"target_group": others(cloud), "instance_policy_arns": [another_policy(cloud)]}
        terraform.write(**there)
        terraform("apply", "-auto-approve")
        # The provider leaves a 0 out, which is AWS's default for it; moto's is 300.
        cloud.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=APP, HealthCheckGracePeriod=0)
        roll(cloud)
        terraform("plan", "-detailed-exitcode")  # fails where something is to be changed
        [group] = cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        assert (group["LaunchTemplate"]["Version"], group["DefaultInstanceWarmup"]) == ("2", WARMUP)
        assert group["InstanceMaintenancePolicy"] == MAINTENANCE
        check_version(cloud, group, "1", METADATA, URL)
        check_policies(cloud, group)
        terraform.write(**there, hop_limit=1)
        terraform("apply", "-auto-approve", "-target=module.app.aws_launch_template.app")  # the rest takes its time
        check_version(cloud, group, "3", {**METADATA, "HttpPutResponseHopLimit": 1}, ROLLED)
        [group] = cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        assert group["LaunchTemplate"]["Version"] == "2"


def another_policy(cloud: Cloud) -> str:
    """The ARN of a policy that is no business of ours."""
    statement = {"Effect": "Allow", "Action": "logs:PutLogEvents", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    made = cloud.client("iam").create_policy(PolicyName="another", PolicyDocument=document)
    return str(made["Policy"]["Arn"])


def check_placeholders() -> None:
    """All that stands in the policies as `${…}` is given to the template: where nothing is, a plan fails."""
    given = {*module("locals")["policy"], "LaunchTemplate"}
    for name in ("instance", "operator"):
        assert {*re.findall(r"\$\{(\w+)\}", (PACKAGING / "iam" / f"{name}.json").read_text())} <= given


def check_version(cloud: Cloud, group: dict[str, Any], number: str, metadata: dict[str, Any], url: str) -> None:
    """What a version of the launch template launches: one that Terraform makes has the latest one's release."""
    data = version(cloud, group["LaunchTemplate"]["LaunchTemplateId"], number)
    assert data["MetadataOptions"].items() >= metadata.items()
    settings = userdata.parse(base64.b64decode(data["UserData"]))
    assert settings == {"RELEASE_URL": url, "ADF_APP": APP, "ADF_CONFIG_TABLE": TABLE}


def check_policies(cloud: Cloud, group: dict[str, Any]) -> None:
    """Both, as Terraform made them, are those of their files."""
    iam = cloud.client("iam")
    [role], [another, managed] = iam.list_roles()["Roles"], iam.list_policies(Scope="Local")["Policies"]
    names = {
        **accounts(),
        "TargetGroup": group["TargetGroupARNs"][0],
        "LaunchTemplate": group["LaunchTemplate"]["LaunchTemplateId"],
        "InstanceRole": role["Arn"],
    }
    inline = iam.get_role_policy(RoleName=role["RoleName"], PolicyName="adf-agent")
    assert inline["PolicyDocument"] == policy("instance", names)
    [attached] = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    assert attached["PolicyArn"] == another["Arn"]
    operator = iam.get_policy_version(PolicyArn=managed["Arn"], VersionId="v1")["PolicyVersion"]
    assert operator["Document"] == policy("operator", names)


def unexpected(instance: Instance) -> Any:
    raise AssertionError(instance.instance_id)


def roll(cloud: Cloud) -> None:
    """What is left of a roll by adf-roll: one more version, and the group at its number."""
    [group] = cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    template = group["LaunchTemplate"]["LaunchTemplateId"]
    settings = f"RELEASE_URL={ROLLED}\nADF_APP={APP}\nADF_CONFIG_TABLE={TABLE}\n"
    user_data = base64.b64encode(settings.encode()).decode()
    cloud.client("ec2").create_launch_template_version(
        LaunchTemplateId=template,
        SourceVersion="1",
        VersionDescription="adf-roll: v2, from version 1",
        LaunchTemplateData={"UserData": user_data},
    )
    specification = {"LaunchTemplateId": template, "Version": "2"}
    cloud.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=APP, LaunchTemplate=specification)
