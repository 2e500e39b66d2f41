"""AWS calls are counted, and fail to order as the real ones do."""

import threading
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault, Call, Then, success

CALLS = [
    ("autoscaling", "describe_auto_scaling_instances", "autoscaling:DescribeAutoScalingInstances"),
    ("elb", "describe_load_balancers", "elasticloadbalancing:DescribeLoadBalancers"),
    ("elbv2", "describe_target_groups", "elasticloadbalancing:DescribeTargetGroups"),
    ("dynamodb", "list_tables", "dynamodb:ListTables"),
    ("ec2", "describe_tags", "ec2:DescribeTags"),
    ("sts", "get_caller_identity", "sts:GetCallerIdentity"),
    ("s3", "list_buckets", "s3:GET"),
    ("cloudwatch", "describe_alarms", "cloudwatch:DescribeAlarms"),
]


def impatient(cloud: Cloud, service: str) -> Any:
    """A client that tries once and waits a quarter of a second."""
    once = Config(read_timeout=0.25, retries={"total_max_attempts": 1})
    session = boto3.Session("sandbox", "sandbox", region_name="eu-west-1")
    return session.client(service, endpoint_url=cloud.endpoint, config=once)


@pytest.mark.parametrize(("service", "method", "name"), CALLS)
def test_a_call_is_counted_by_service_and_action(cloud: Cloud, service: str, method: str, name: str) -> None:
    """A boot that makes twice the calls is noticed by its bill, and by throttling when a fleet scales out."""
    getattr(cloud.client(service), method)()
    assert cloud.calls == {name: 1}


@pytest.mark.parametrize(("service", "method", "name"), CALLS)
def test_a_fault_is_read_by_botocore_as_the_error_it_names(cloud: Cloud, service: str, method: str, name: str) -> None:
    """An error that botocore can't read has no code: what the agent does about codes would never be tested."""
    cloud.faults = [AwsFault(name, "AccessDenied", 403, message="not <you> & yours")]
    with pytest.raises(ClientError) as caught:
        getattr(cloud.client(service), method)()
    answer = caught.value.response
    assert answer["Error"]["Code"] == "AccessDenied"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert "not <you> & yours" in str(caught.value)


def test_a_fault_lasts_as_often_as_ordered_and_for_what_it_matches(cloud: Cloud) -> None:
    """A fault that outlives its test, or hits the calls beside it, fails what is not broken."""
    cloud.faults = [AwsFault("elasticloadbalancing:Describe*", "AccessDenied", times=2)]
    elbv2 = cloud.client("elbv2")
    for _ in range(2):
        with pytest.raises(ClientError, match="AccessDenied"):
            elbv2.describe_target_groups()
    assert elbv2.describe_target_groups()["TargetGroups"] == []
    assert cloud.client("dynamodb").list_tables()["TableNames"] == []
    assert cloud.faults[0].times == 0


def test_throttling_is_tried_again_by_botocore(cloud: Cloud) -> None:
    """Throttling that botocore does not know as such is never tried again: a scale-out fails at the first one."""
    cloud.faults = [AwsFault("autoscaling:*", times=1)]
    assert cloud.client("autoscaling").describe_auto_scaling_instances()["AutoScalingInstances"] == []
    assert cloud.calls["autoscaling:DescribeAutoScalingInstances"] == 2


def test_silence_lasts_longer_than_a_client_waits(cloud: Cloud) -> None:
    """An AWS that always answers at once never shows a call without a time-out."""
    cloud.faults = [AwsFault("autoscaling:*", code="", seconds=float("inf"), times=1)]
    autoscaling = impatient(cloud, "autoscaling")
    with pytest.raises(ReadTimeoutError):
        autoscaling.describe_auto_scaling_instances()
    assert autoscaling.describe_auto_scaling_instances()["AutoScalingInstances"] == []


def test_silence_ends_with_the_cloud() -> None:
    """A hang that outlives its cloud keeps an agent, and the test that waits for it, for ever."""
    ended: list[BaseException] = []

    def call(client: Any) -> None:
        try:
            client.list_tables()
        except ClientError as error:
            ended.append(error)

    with Cloud() as cloud:
        cloud.faults = [AwsFault("dynamodb:*", "InternalServerError", 418, seconds=float("inf"))]
        thread = threading.Thread(target=call, args=(cloud.client("dynamodb"),), daemon=True)
        thread.start()
        for _ in range(100):
            if cloud.calls:
                break
            thread.join(0.05)
        assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive()
    assert [str(error) for error in ended if "InternalServerError" in str(error)]


def test_a_handler_answers_in_motos_place_or_after_it(cloud: Cloud) -> None:
    """What moto lacks can't be added: lifecycle actions would stay untested."""
    seen: list[tuple[Call, int]] = []

    def instead(call: Call, then: Then) -> Any:  # noqa: ARG001  moto is not asked
        return success(call, {"AutoScalingInstances": [{"InstanceId": "i-<1>"}, {"InstanceId": "i-2"}]})

    def after(call: Call, then: Then) -> Any:
        answer = then()
        seen.append((call, answer.status_code))
        return answer

    cloud.front.handlers["autoscaling:DescribeAutoScalingInstances"] = instead
    cloud.front.handlers["elasticloadbalancing:DescribeTargetGroups"] = after

    answer = cloud.client("autoscaling").describe_auto_scaling_instances()
    assert [instance["InstanceId"] for instance in answer["AutoScalingInstances"]] == ["i-<1>", "i-2"]
    with pytest.raises(ClientError, match="TargetGroupNotFound"):
        cloud.client("elbv2").describe_target_groups(Names=["web"])
    assert [(call.form["Names.member.1"], status) for call, status in seen] == [("web", 400)]
