"""NAME.release.json as a RELEASE_URL: the image that it names, by a digest, so that an image can be signed too."""

import json
import re
from typing import Any

from adf_agent import location
from adf_agent.errors import ReleaseError
from adf_agent.location import NOTE, REFERENCE, Location

FORM = '{"image": "registry/repository@sha256:…", "name": "NAME"}'


def image(data: bytes, name: str) -> Location:
    """Where the image of the release *name* is, from the note *data*. Raises ReleaseError."""
    found = _parsed(data)
    if not isinstance(found, dict) or {*found} != {"image", "name"}:
        what = "is that of a tarball" if isinstance(found, dict) and "digest" in found else "names no image"
        hint = f"An image's is {FORM}, and no other key; a tarball's RELEASE_URL is the tarball's own."
        raise ReleaseError(f"the note about the release {what}", hint=hint)
    form = re.fullmatch(REFERENCE, str(found["image"]), re.ASCII)
    if form is None or not form["digest"]:
        raise ReleaseError("the note names its image by no digest", hint=f"Write {FORM}.")
    if found["name"] != name:
        raise ReleaseError(
            f"the note is that of release {str(found['name'])[:100]!r}, and RELEASE_URL names {name!r}",
            hint=f"An older note may have been put in its place. Call the note of NAME NAME{NOTE}.",
        )
    return location.parse(f"docker://{form[0]}")


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ReleaseError("the note about the release is no JSON", hint=f"Write {FORM}.") from error
