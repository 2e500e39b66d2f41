"""The sandbox's Auto Scaling group: an instance's lifecycle, its hooks, and what moto says about it."""

import json
import time
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook

LAUNCH, TERMINATE = Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate")
BOTH = [LAUNCH, TERMINATE]
NONE_WAITS = "ValidationError.*No active Lifecycle Action found with instance ID {}"


def named(group: Group, hook: str) -> dict[str, str]:
    """How the instance names its *hook* to Auto Scaling."""
    instance_id = group.cloud.imds.instance.instance_id
    return {"AutoScalingGroupName": group.name, "LifecycleHookName": hook, "InstanceId": instance_id}


def complete(group: Group, hook: str, result: str = "CONTINUE") -> None:
    group.cloud.client("autoscaling").complete_lifecycle_action(**named(group, hook), LifecycleActionResult=result)


def described(cloud: Cloud) -> list[str]:
    """The state in DescribeAutoScalingInstances; empty where the instance is in no group."""
    ids = [cloud.imds.instance.instance_id]
    answer = cloud.client("autoscaling").describe_auto_scaling_instances(InstanceIds=ids)
    return [instance["LifecycleState"] for instance in answer["AutoScalingInstances"]]


def vpc(cloud: Cloud) -> str:
    return str(cloud.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"])


def target_group(cloud: Cloud) -> str:
    made = cloud.client("elbv2").create_target_group(Name="web", Protocol="HTTP", Port=8000, VpcId=vpc(cloud))
    return str(made["TargetGroups"][0]["TargetGroupArn"])


def classic(cloud: Cloud) -> str:
    listener = {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstancePort": 8000}
    zones = [cloud.imds.instance.zone]
    cloud.client("elb").create_load_balancer(LoadBalancerName="old", Listeners=[listener], AvailabilityZones=zones)
    return "old"


def registered(cloud: Cloud, arn: str, name: str) -> list[str]:
    """The states that moto has of the registered targets and instances."""
    targets = cloud.client("elbv2").describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    instances = cloud.client("elb").describe_instance_health(LoadBalancerName=name)["InstanceStates"]
    return [target["TargetHealth"]["State"] for target in targets] + [instance["State"] for instance in instances]


def test_a_launch_waits_for_its_hook_and_registers_when_it_is_completed(cloud: Cloud) -> None:
    """An instance that the sandbox registers before the hook is completed hides an agent that completes too soon."""
    arn, name = target_group(cloud), classic(cloud)
    with Group(cloud, hooks=BOTH, target_groups=[arn], load_balancers=[name]) as group:
        before = described(cloud), cloud.imds.instance.target_lifecycle_state
        group.launch()
        assert (before, described(cloud)) == ((["Pending"], None), ["Pending:Wait"])
        assert (cloud.imds.instance.target_lifecycle_state, registered(cloud, arn, name)) == ("InService", [])
        complete(group, "adf-launch")
        assert (described(cloud), registered(cloud, arn, name)) == (["InService"], ["healthy", "InService"])
        assert group.completed == [("adf-launch", "CONTINUE")]


def test_what_is_attached_is_in_motos_own_answers(cloud: Cloud) -> None:
    """An agent that finds no target group of its group joins none, and never serves."""
    arn, name = target_group(cloud), classic(cloud)
    with Group(cloud, hooks=BOTH, target_groups=[arn], load_balancers=[name]):
        autoscaling = cloud.client("autoscaling")
        groups = autoscaling.describe_load_balancer_target_groups(AutoScalingGroupName="web")
        balancers = autoscaling.describe_load_balancers(AutoScalingGroupName="web")
        hooks = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="web")["LifecycleHooks"]
        (made,) = autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [group["LoadBalancerTargetGroupARN"] for group in groups["LoadBalancerTargetGroups"]] == [arn]
    assert [balancer["LoadBalancerName"] for balancer in balancers["LoadBalancers"]] == [name]
    assert {(hook["LifecycleHookName"], hook["HeartbeatTimeout"]) for hook in hooks} == {
        ("adf-launch", 60),
        ("adf-terminate", 60),
    }
    assert [instance["InstanceId"] for instance in made["Instances"]] == [cloud.imds.instance.instance_id]


@pytest.mark.parametrize("done", [["adf-launch", "codedeploy"], ["codedeploy", "adf-launch"]])
def test_every_hook_of_a_kind_must_be_completed(cloud: Cloud, done: list[str]) -> None:
    """CodeDeploy's hook still waits: an agent that takes its own for all believes the instance in service."""
    with Group(cloud, hooks=[*BOTH, Hook("codedeploy", "launch")]) as group:
        group.launch()
        complete(group, done[0])
        assert group.state == "Pending:Wait"
        complete(group, done[1])
        assert group.state == "InService"


@pytest.mark.parametrize("hook", ["adf-launch", "adf-terminate", "nobody's"])
def test_a_hook_that_does_not_wait_can_be_neither_completed_nor_prolonged(cloud: Cloud, hook: str) -> None:
    """On AWS an action that came too soon is refused; where it is taken here, the agent's second try is never seen."""
    with Group(cloud, hooks=BOTH) as group:
        group.launch()
        complete(group, "adf-launch")
        refused = NONE_WAITS.format(cloud.imds.instance.instance_id)
        with pytest.raises(ClientError, match=refused):
            complete(group, hook)
        with pytest.raises(ClientError, match=refused):
            cloud.client("autoscaling").record_lifecycle_action_heartbeat(**named(group, hook))
        assert (group.completed, group.heartbeats) == ([("adf-launch", "CONTINUE")], {})


@pytest.mark.parametrize("wrong", [{"InstanceId": "i-0"}, {"AutoScalingGroupName": "other"}])
def test_a_hook_is_completed_by_its_own_instance_and_group(cloud: Cloud, wrong: dict[str, str]) -> None:
    """An agent that names another instance completes a hook that is not its own."""
    with Group(cloud, hooks=BOTH) as group:
        group.launch()
        with pytest.raises(ClientError, match="No active Lifecycle Action"):
            cloud.client("autoscaling").complete_lifecycle_action(
                **(named(group, "adf-launch") | wrong), LifecycleActionResult="CONTINUE"
            )
        with pytest.raises(ClientError, match="neither CONTINUE nor ABANDON"):
            complete(group, "adf-launch", "continue")
        assert group.state == "Pending:Wait"


def test_an_abandoned_launch_ends_the_instance(cloud: Cloud) -> None:
    """An agent that gave up and is put into service serves errors."""
    with Group(cloud, hooks=[*BOTH, Hook("codedeploy", "launch")]) as group:
        group.launch()
        complete(group, "adf-launch", "ABANDON")
        assert (group.state, cloud.imds.instance.target_lifecycle_state) == ("Terminating:Wait", "Terminated")
        complete(group, "adf-terminate")
        assert (group.state, described(cloud)) == ("Terminated", [])
    assert "InService" not in group.events


def test_an_abandoned_termination_ends_the_other_hooks_too(cloud: Cloud) -> None:
    """An agent that counts on the other hook's time is cut off in the middle of its drain."""
    with Group(cloud, hooks=[TERMINATE, Hook("other", "terminate")]) as group:
        group.launch()
        group.terminate()
        complete(group, "other", "ABANDON")
        assert group.state == "Terminated"


@pytest.mark.parametrize(("result", "end"), [("CONTINUE", "InService"), ("ABANDON", "Terminated")])
def test_a_hook_that_nobody_completes_times_out(cloud: Cloud, result: str, end: str) -> None:
    """A hook that waits for ever hides an agent that forgot its heartbeats."""
    with Group(cloud, hooks=[Hook("adf-launch", "launch", 1, result)]) as group:
        group.launch()
        group.wait_for(end, 5)
    assert (group.completed, "adf-launch timed out" in group.events) == ([], True)


def test_a_heartbeat_begins_the_time_out_anew(cloud: Cloud) -> None:
    """A build longer than the hook's time-out: without heartbeats that count, no slow release ever boots here."""
    with Group(cloud, hooks=[Hook("adf-launch", "launch", 1)]) as group:
        group.launch()
        autoscaling, began = cloud.client("autoscaling"), time.monotonic()
        while time.monotonic() < began + 1.5:
            autoscaling.record_lifecycle_action_heartbeat(**named(group, "adf-launch"))
            last = time.monotonic()
            time.sleep(0.1)
        assert group.state == "Pending:Wait"
        group.wait_for("Terminated", 5)
    timed_out = next(at for at, event in group.log if event == "adf-launch timed out")
    assert group.heartbeats["adf-launch"] > 3
    assert timed_out - last > 0.9


def test_a_warm_pool_runs_the_launch_hook_twice_and_the_other_on_return(cloud: Cloud) -> None:
    """An agent that knows one launch a life stays out of service when it leaves the pool."""
    arn, name = target_group(cloud), classic(cloud)
    with Group(cloud, hooks=BOTH, target_groups=[arn], load_balancers=[name]) as group:
        seen: list[Any] = []
        for move, hook in (
            (partial(group.launch, "Warmed:Running"), "adf-launch"),
            (group.leave_pool, "adf-launch"),
            (partial(group.return_to_pool, "Warmed:Stopped"), "adf-terminate"),
        ):
            move()
            seen.append((cloud.imds.instance.target_lifecycle_state, described(cloud)))
            complete(group, hook)
            seen.append((len(registered(cloud, arn, name)), described(cloud)))
    assert seen == [
        ("Warmed:Running", ["Warmed:Pending:Wait"]),
        (0, ["Warmed:Running"]),
        ("InService", ["Pending:Wait"]),
        (2, ["InService"]),
        ("Warmed:Stopped", ["Warmed:Pending:Wait"]),
        (0, ["Warmed:Stopped"]),
    ]


def test_a_warm_instance_is_terminated_in_the_pools_own_states(cloud: Cloud) -> None:
    """An agent that knows Terminated only is killed in the pool with its hook uncompleted."""
    with Group(cloud, hooks=[TERMINATE]) as group:
        group.launch("Warmed:Running")
        group.terminate()
        target = cloud.imds.instance.target_lifecycle_state
        assert (group.state, target) == ("Warmed:Terminating:Wait", "Warmed:Terminated")
        complete(group, "adf-terminate")
        assert (group.state, described(cloud)) == ("Warmed:Terminated", [])


def test_standby_and_detaching_know_no_hooks(cloud: Cloud) -> None:
    """An agent that waits in standby for a hook that never comes keeps its container running, or stops it too soon."""
    arn, name = target_group(cloud), classic(cloud)
    with Group(cloud, hooks=[TERMINATE], target_groups=[arn], load_balancers=[name]) as group:
        group.launch()
        seen: list[Any] = []
        for move in (group.standby, group.exit_standby, group.detach):
            move()
            seen.append((cloud.imds.instance.target_lifecycle_state, described(cloud), registered(cloud, arn, name)))
    assert seen == [
        ("Standby", ["Standby"], []),
        ("InService", ["InService"], ["healthy", "InService"]),
        ("Detached", [], []),
    ]


def test_an_instance_that_the_agent_deregistered_is_terminated_all_the_same(cloud: Cloud) -> None:
    """After a spot notice the agent deregisters first; a group that stumbles over that never gets to the hook."""
    arn, name = target_group(cloud), classic(cloud)
    with Group(cloud, hooks=[TERMINATE], target_groups=[arn], load_balancers=[name]) as group:
        group.launch()
        instance = cloud.imds.instance.instance_id
        cloud.client("elbv2").deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance}])
        cloud.client("elb").deregister_instances_from_load_balancer(
            LoadBalancerName=name, Instances=[{"InstanceId": instance}]
        )
        assert registered(cloud, arn, name) == []
        group.terminate()
        assert group.state == "Terminating:Wait"


@pytest.mark.parametrize(("sent", "respects"), [({}, True), ({"ShouldRespectGracePeriod": False}, False)])
def test_unhealthy_is_kept_with_its_respect_for_the_grace_period(
    cloud: Cloud, sent: dict[str, bool], respects: object
) -> None:
    """Within the grace period Unhealthy does nothing unless told not to respect it: the failed instance stays."""
    with Group(cloud) as group:
        group.launch()
        autoscaling, instance = cloud.client("autoscaling"), cloud.imds.instance.instance_id
        autoscaling.set_instance_health(InstanceId=instance, HealthStatus="Healthy", **sent)
        autoscaling.set_instance_health(InstanceId=instance, HealthStatus="Unhealthy", **sent)
        (found,) = autoscaling.describe_auto_scaling_instances()["AutoScalingInstances"]
    assert (group.unhealthy, found["HealthStatus"]) == ([respects], "Unhealthy")


def test_hooks_are_completed_by_whom_the_policies_allow(cloud: Cloud) -> None:
    """A role that lacks the action is found on the first instance, when its hook times out."""
    with Group(cloud, hooks=BOTH) as group:
        group.launch()
        iam = cloud.client("iam")
        iam.create_user(UserName="instance")
        action = "autoscaling:RecordLifecycleActionHeartbeat"
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
        iam.put_user_policy(UserName="instance", PolicyName="agent", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="instance")["AccessKey"]
        cloud.enforce_permissions()
        autoscaling = cloud.client("autoscaling", key["AccessKeyId"], key["SecretAccessKey"])
        autoscaling.record_lifecycle_action_heartbeat(**named(group, "adf-launch"))
        with pytest.raises(ClientError, match="not authorized to perform: autoscaling:CompleteLifecycleAction"):
            autoscaling.complete_lifecycle_action(**named(group, "adf-launch"), LifecycleActionResult="CONTINUE")
        assert (group.state, group.heartbeats) == ("Pending:Wait", {"adf-launch": 1})


def test_waiting_in_vain_says_what_the_state_is(cloud: Cloud) -> None:
    """A test that only says "timed out" is run again rather than understood."""
    with Group(cloud, hooks=BOTH) as group:
        group.launch()
        with pytest.raises(TimeoutError, match=r"not InService .* but Pending:Wait; waiting: \['adf-launch'\]"):
            group.wait_for("InService", 0.05)
