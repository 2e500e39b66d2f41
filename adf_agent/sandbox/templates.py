"""Versions of launch templates, as far as moto does not have them."""

from http import HTTPStatus
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.models import ec2_backends
from moto.ec2.models.launch_templates import LaunchTemplateVersion
from werkzeug.wrappers import Response

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Handler, Then, error


class Templates:
    def __init__(self, cloud: Cloud) -> None:
        self._here = cloud.imds.instance
        self.handlers: dict[str, Handler] = {
            "ec2:CreateLaunchTemplateVersion": self._created,
            "ec2:DeleteLaunchTemplateVersions": self._deleted,
        }

    def _created(self, call: Call, then: Then) -> Response:
        """From its source version it has all that it does not bring itself; moto leaves its user-data without a type.

        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateLaunchTemplateVersion.html
        """
        answer, source = then(), call.form.get("SourceVersion")
        if answer.status_code == HTTPStatus.OK:
            template = self._template(call)
            made = template.versions[-1]
            data = {**(template.get_version(source).data if source else {}), **made.data}
            if "UserData" in data:
                data["UserData"] = Base64EncodedString(str(data["UserData"]))
            template.versions[-1] = LaunchTemplateVersion(template, made.number, data, made.description)
        return answer

    def _deleted(self, call: Call, _: Then) -> Response:
        """Moto knows versions by their place in a list, so only the latest can go; the next one has its number."""
        template, number = self._template(call), call.form.get("LaunchTemplateVersion.1", "")
        if number != str(template.latest_version_number) or number == str(template.default_version_number):
            return error(call, "InvalidLaunchTemplateId.VersionNotFound", f"version {number} can't be deleted here")
        template.versions.pop()
        gone = f"<item><launchTemplateId>{template.id}</launchTemplateId><versionNumber>{number}</versionNumber></item>"
        found = f"<successfullyDeletedLaunchTemplateVersionSet>{gone}</successfullyDeletedLaunchTemplateVersionSet>"
        return Response(f"<{call.action}Response>{found}</{call.action}Response>", content_type="text/xml")

    def _template(self, call: Call) -> Any:
        backend, form = ec2_backends[self._here.account][self._here.region], call.form
        if found := form.get("LaunchTemplateId"):
            return backend.get_launch_template(found)
        return backend.get_launch_template_by_name(form["LaunchTemplateName"])
