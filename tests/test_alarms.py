"""The alarms that guard a roll, of both templates: what raises them, and what does not."""

from math import nan

import pytest
from fixtures_templates import module, template

SERVED = {"LoadBalancer", "TargetGroup"}
# By the id that the expression has each under: the metric, and what it is told apart by. AWS has no other for an ELB_….
METRICS = {
    "requests": ("RequestCount", SERVED),
    "errors": ("HTTPCode_Target_5XX_Count", SERVED),
    "broken": ("HTTPCode_ELB_502_Count", {"LoadBalancer"}),
    "late": ("HTTPCode_ELB_504_Count", {"LoadBalancer"}),
}
ERRORS, UNHEALTHY = (template("Resources")[name]["Properties"] for name in ("Errors", "Unhealthy"))


class Figure(float):
    """As CloudWatch reckons: what is divided by zero is no data, and no data is above no threshold."""

    def __rtruediv__(self, other: float) -> float:
        return other / float(self) if self else nan


def share(expression: str, **figures: int | None) -> float:
    """What CloudWatch's metric math makes of a minute; None is a metric that has nothing to say of it."""
    functions = {
        "FILL": lambda figure, value: Figure(value if figure is None else figure),
        "IF": lambda condition, value, other: value if condition else other,
    }
    result: float = eval(expression, {**functions, **figures})  # noqa: S307  the template's own, and Python's as well
    return result


@pytest.mark.parametrize(
    ("requests", "errors", "broken", "late", "raised"),
    [
        (None, None, None, None, False),
        (20, 20, None, None, False),
        (100, None, None, None, False),
        (100, 5, None, None, False),
        (100, 6, None, None, True),
        (100, None, 6, None, True),
        (100, None, None, 6, True),
        (100, 2, 2, 2, True),
        (1000, 30, 10, 10, False),
    ],
)
def test_what_users_see_raises_it_and_a_quiet_minute_does_not(
    requests: int | None, errors: int | None, broken: int | None, late: int | None, raised: bool
) -> None:
    """A release that drops connections is rolled out to the end; or a good one goes back for one error at night."""
    found = share(ERRORS["Metrics"][0]["Expression"], requests=requests, errors=errors, broken=broken, late=late)
    assert ERRORS["Threshold"] == {"Ref": "ErrorPercent"}
    assert (found > template("Parameters")["ErrorPercent"]["Default"]) is raised


def test_it_is_two_bad_minutes_of_three_and_no_news_is_good_news() -> None:
    """A minute that is not counted yet ends the alarm; or a roll is refused, as nobody has asked for the app yet."""
    assert (ERRORS["EvaluationPeriods"], ERRORS["DatapointsToAlarm"]) == (3, 2)
    assert ERRORS["TreatMissingData"] == "notBreaching"
    assert ERRORS["ComparisonOperator"] == "GreaterThanThreshold"


def test_its_metrics_are_those_that_aws_has() -> None:
    """A metric by dimensions that it is not kept under has no data, ever, and the alarm is never raised."""
    found = {}
    for each in ERRORS["Metrics"][1:]:
        metric = each["MetricStat"]["Metric"]
        found[each["Id"]] = metric["MetricName"], {dimension["Name"] for dimension in metric["Dimensions"]}
        assert (each["MetricStat"]["Stat"], each["MetricStat"]["Period"]) == ("Sum", 60)
    assert found == METRICS


def test_terraforms_are_the_same() -> None:
    """The alarm that was mended in one template, and guards nothing in the other."""
    resources, default = module("resource"), template("Parameters")["ErrorPercent"]["Default"]
    for name, ours in (("errors", ERRORS), ("unhealthy", UNHEALTHY)):
        theirs = resources[f"aws_cloudwatch_metric_alarm.{name}"]
        assert theirs["alarm_name"] == ours["AlarmName"]["Fn::Sub"].replace("${App}", "${var.app}")
        assert theirs["evaluation_periods"] == ours["EvaluationPeriods"]
        assert theirs["comparison_operator"] == ours["ComparisonOperator"]
        assert theirs["treat_missing_data"] == ours["TreatMissingData"]
    errors = resources["aws_cloudwatch_metric_alarm.errors"]
    assert (errors["threshold"], errors["datapoints_to_alarm"]) == ("${var.error_percent}", 2)
    assert module("variable")["error_percent"]["default"] == default
    assert errors["metric_query"][0]["expression"] == ERRORS["Metrics"][0]["Expression"]
    metrics = errors["dynamic"][0]["metric_query"]["for_each"]
    dimensions = {"${local.served}": SERVED, "${local.balancer}": {"LoadBalancer"}}
    assert {key: (each["name"], dimensions[each["dimensions"]]) for key, each in metrics.items()} == METRICS
