"""Load balancers that balance: a haproxy behind each target group and each classic load balancer of moto."""

import re
import threading
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Any, Self

from moto.elb.models import elb_backends
from moto.elbv2.models import elbv2_backends
from werkzeug.wrappers import Response

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Handler, Then, success
from adf_agent.sandbox.haproxy import FALL, RISE, Haproxy
from adf_agent.sandbox.pool import Pool

TICK = 0.05  # seconds


class Balancer:
    """A context manager, with what its haproxies write in *folder*; they end with it."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud, self.folder = cloud, folder
        self.pools: dict[str, Pool] = {}
        self._stack = ExitStack()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="balancer")

    def __enter__(self) -> Self:
        self.cloud.front.handlers |= self._handlers()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name in self._handlers():
            self.cloud.front.handlers.pop(name, None)
        for name in self.pools:
            self.cloud.pools.pop(name, None)
        self._stack.close()

    def target_group(
        self,
        name: str,
        target_port: int,
        path: str = "/",
        deregistration_delay: float = 10,
        interval: float = 0.1,
        settle: float = 0.5,
        spare: str = "",
    ) -> Pool:
        """A target group of instances; its `arn` and `url`. The health check wants 200 of *path*.

        Each instance is asked at *target_port*, whichever port it was registered with.
        """
        elbv2, (vpc, *_) = self.cloud.client("elbv2"), self.cloud.client("ec2").describe_vpcs()["Vpcs"]
        made = elbv2.create_target_group(
            Name=name, Protocol="HTTP", Port=target_port, VpcId=vpc["VpcId"], HealthCheckPath=path
        )
        arn = made["TargetGroups"][0]["TargetGroupArn"]
        delay = {"Key": "deregistration_delay.timeout_seconds", "Value": str(ceil(deregistration_delay))}
        elbv2.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[delay])
        return self.behind(arn, target_port, path, deregistration_delay, interval, settle, spare)

    def behind(
        self,
        arn: str,
        target_port: int,
        path: str = "/",
        deregistration_delay: float = 10,
        interval: float = 0.1,
        settle: float = 0.5,
        spare: str = "",
    ) -> Pool:
        """Balances to the target group *arn*, whoever made it.

        *spare* is the address of another instance behind it, which always serves.
        """
        group = self._backend(elbv2_backends).target_groups[arn]
        # As haproxy really checks, in whole seconds: the API takes no less than five.
        group.health_check_interval_seconds, group.healthy_threshold_count = ceil(interval), RISE
        name, registered = arn.split("/")[-2], partial(self._targets, arn)
        haproxy = self._haproxy(name, target_port, path, interval, spare)
        return self._add(arn, Pool(name, arn, self.cloud, haproxy, registered, deregistration_delay, settle))

    def classic(
        self,
        name: str,
        target_port: int,
        path: str = "/",
        deregistration_delay: float = 10,
        interval: float = 0.1,
        settle: float = 0.5,
    ) -> Pool:
        """A classic load balancer; its `name` and `url`."""
        elb = self.cloud.client("elb")
        listener = {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstancePort": target_port}
        zones = [self.cloud.imds.instance.zone]
        elb.create_load_balancer(LoadBalancerName=name, Listeners=[listener], AvailabilityZones=zones)
        check = {"Target": f"HTTP:{target_port}{path}", "Interval": 5, "Timeout": 2}
        check |= {"HealthyThreshold": RISE, "UnhealthyThreshold": FALL}
        elb.configure_health_check(LoadBalancerName=name, HealthCheck=check)
        self._backend(elb_backends).load_balancers[name].health_check.interval = ceil(interval)
        draining = {"ConnectionDraining": {"Enabled": True, "Timeout": ceil(deregistration_delay)}}
        elb.modify_load_balancer_attributes(LoadBalancerName=name, LoadBalancerAttributes=draining)
        haproxy = self._haproxy(f"{name}-classic", target_port, path, interval)
        registered = partial(self._members, name)
        return self._add(name, Pool(name, "", self.cloud, haproxy, registered, deregistration_delay, settle))

    def _haproxy(self, name: str, port: int, path: str, interval: float, spare: str = "") -> Haproxy:
        return self._stack.enter_context(Haproxy(self.folder / name, port, path, interval, spare))

    def _add(self, key: str, pool: Pool) -> Pool:
        self.pools[key] = self.cloud.pools[key] = pool
        return pool

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            self._follow()

    def _follow(self) -> None:
        for pool in [*self.pools.values()]:
            pool.follow()

    def _targets(self, arn: str) -> list[str]:
        group = self._backend(elbv2_backends).target_groups.get(arn)
        return [*group.targets] if group else []

    def _members(self, name: str) -> list[str]:
        balancer = self._backend(elb_backends).load_balancers.get(name)
        return balancer.instance_ids if balancer else []

    def _backend(self, backends: Any) -> Any:
        return backends[self.cloud.imds.instance.account][self.cloud.imds.instance.region]

    def _handlers(self) -> dict[str, Handler]:
        changes = "RegisterTargets", "RegisterInstancesWithLoadBalancer", "DeregisterInstancesFromLoadBalancer"
        return {
            **{f"elasticloadbalancing:{action}": self._changed for action in changes},
            "elasticloadbalancing:DeregisterTargets": self._deregistered,
            "elasticloadbalancing:DescribeTargetHealth": self._target_health,
            "elasticloadbalancing:DescribeInstanceHealth": self._instance_health,
        }

    def _changed(self, _: Call, then: Then) -> Response:
        answer = then()
        self._follow()  # at once: a test need not wait for the thread
        return answer

    def _deregistered(self, call: Call, then: Then) -> Response:
        """Success too where no such target is registered, which moto refuses.

        https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DeregisterTargets.html
        """
        answer = self._changed(call, then)
        return success(call) if b"<Code>InvalidTarget</Code>" in answer.data else answer

    def _target_health(self, call: Call, then: Then) -> Response:
        answer, pool = then(), self.pools.get(call.form.get("TargetGroupArn", ""))
        if not pool or answer.status_code != HTTPStatus.OK:
            return answer
        states = _states(call, pool, r"Targets\.member\.\d+\.Id")
        found = [pool.target(name, state) for name, state in states.items()]
        return success(call, {"TargetHealthDescriptions": found})

    def _instance_health(self, call: Call, then: Then) -> Response:
        answer, pool = then(), self.pools.get(call.form.get("LoadBalancerName", ""))
        if not pool or answer.status_code != HTTPStatus.OK:
            return answer
        states = _states(call, pool, r"Instances\.member\.\d+\.InstanceId")
        found = [pool.instance(name, state) for name, state in states.items()]
        return success(call, {"InstanceStates": found})


def _states(call: Call, pool: Pool, key: str) -> dict[str, str]:
    """Of those asked for, by id; of all that are registered or drain where none is."""
    return pool.states([value for name, value in call.form.items() if re.fullmatch(key, name)])
