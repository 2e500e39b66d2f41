"""An app's config as a release gets it: all of it, or one key's value."""

import difflib
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from adf_agent import config
from adf_agent.errors import ConfigError
from adf_agent.ops.app import App
from adf_agent.ops.configure import held
from adf_agent.ops.configure.held import Held
from adf_agent.table import Snapshot, partitions

WIDEST = 48  # of a column: one long value must not push everybody's origin off the screen


def show(app: App, release: str | None, *, reveal: bool, as_json: bool) -> None:
    """Prints every key that a container of *release* gets, and where it is from. Raises ConfigError."""
    with _without_collector():
        seen = app.seen(release)
        found = held.gets(app, release, seen, reveal=reveal)
        gets = {name: each for name, each in found.items() if not each.is_hidden}
        if as_json:
            facts = {"app": app.name, "release": release, "revision": seen.revision}
            keys = {name: each.shown for name, each in gets.items()}
            print(json.dumps({**facts, "keys": keys, "hidden": [name for name in found if name not in gets]}, indent=1))
        elif found:
            print("\n".join(_lines(found)))
    places = " and ".join(partitions(app.name, release).values())
    print(f"{len(gets)} keys of {places}, {held.revision(seen)}", file=sys.stderr)
    held.doubt(app, release, seen)


def value(app: App, release: str | None, name: str, *, reveal: bool) -> str:
    """The text that a container of *release* gets for *name*. Raises ConfigError, also for a secret not to be shown."""
    seen = app.seen(release)
    place = next((at for at in reversed(partitions(app.name, release).values()) if (at, name) in seen.items), None)
    if place is None:
        raise _absent(app, release, name, seen)
    # This key alone: no other secret is decrypted for it, and another key's fault is not in its way.
    own = replace(seen, items={(place, name): seen.items[place, name]})
    found = held.gets(app, release, own, reveal=reveal)[name]
    if found.is_hidden:
        hint = f"See {app.name}'s without -r."
        raise ConfigError(f"{place} hides {name}: {release} does not get it", hint=hint)
    if found.text is None:
        raise ConfigError(f"{name} of {place} is a secret", hint="Give --reveal to have it shown.")
    held.doubt(app, release, seen)
    return found.text


@contextmanager
def _without_collector() -> Iterator[None]:
    """Of ten thousand small objects that are all kept, a search for garbage takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _lines(found: Mapping[str, Held]) -> Iterator[str]:
    rows = [(held.one_line(name), each.line, each.origin) for name, each in found.items()]
    names, values = (min(max(len(row[column]) for row in rows), WIDEST) for column in (0, 1))
    for name, text, origin in rows:
        yield f"{name:<{names}}  {text:<{values}}  {origin}"


def _absent(app: App, release: str | None, name: str, seen: Snapshot) -> ConfigError:
    """No value for *name*, and which one may be meant."""
    names = config.merged(app.name, release, seen)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Is it {near[0]}?" if near else "See the names with `list`."
    places = [*partitions(app.name, release).values()]
    return ConfigError(f"{' and '.join(places)} {'has' if len(places) == 1 else 'have'} no {name}", hint=hint)
