"""What a command changes: decided from what is there, with no effect. A refusal is a ConfigError, without a value."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from adf_agent.config import check_environment, check_name
from adf_agent.errors import ConfigError
from adf_agent.ops.configure.history import Revision
from adf_agent.table import Attributes, Key, Snapshot, own, partitions

Change = Mapping[Key, Attributes | None]  # by key, the new item, or None for none
MOST_KEYS = 98  # of the 100 items of a transaction; revision and history are the other two
MOST_BYTES = 350 * 1024  # of the 400 KiB of an item: the history's holds what was there before
UNSET: Attributes = {"Unset": {"BOOL": True}}


def assigned(app: str, release: str | None, seen: Snapshot, new: Mapping[str, Attributes]) -> Change:
    """Each of *new* in the overlay of *release*, or in the base."""
    place = own(app, release)
    for name, attributes in new.items():
        check_name((place, name))
        _check_text(name, attributes)
        for at in {place, app}:
            _check_secret((at, name), attributes, seen)
    change = {(place, name): attributes for name, attributes in new.items()}
    _check_result(app, release, seen, change)
    return change


def removed(app: str, release: str | None, seen: Snapshot, names: Collection[str]) -> Change:
    """Without *names*: of the overlay the base's keys show again."""
    place = own(app, release)
    if missing := [name for name in names if (place, name) not in seen.items]:
        hidden = f", or `--hide` to keep {app}'s from {release}" if release else ""
        raise ConfigError(f"{place} has no {', '.join(missing)}", hint=f"See the names with `list`{hidden}.")
    return {(place, name): None for name in names}


def hidden(app: str, release: str | None, seen: Snapshot, names: Collection[str]) -> Change:
    """*names* of the base kept from *release*."""
    if release is None:
        raise ConfigError("a key is hidden from a release: none is named", hint="Name it by -r RELEASE.")
    if missing := [name for name in names if (app, name) not in seen.items]:
        raise ConfigError(f"{app} has no {', '.join(missing)} to hide", hint="See the names with `list`.")
    return {(own(app, release), name): UNSET for name in names}


def promoted(app: str, release: str, seen: Snapshot, names: Collection[str]) -> Change:
    """The overlay's keys, or *names* of them, in the base; what it hides is gone there."""
    overlay = _chosen(app, release, seen, names)
    change = {(app, name): None if _hides(attributes) else attributes for name, attributes in overlay.items()}
    for key, attributes in change.items():
        _check_secret(key, attributes or {}, seen)
    _check_result(app, None, seen, change)
    return change


def emptied(app: str, release: str, seen: Snapshot, names: Collection[str]) -> Change:
    """The overlay without those keys that say what the base says."""
    overlay = _chosen(app, release, seen, names)
    same = [
        name
        for name, attributes in overlay.items()
        if seen.items.get((app, name)) == (None if _hides(attributes) else attributes)
    ]
    return {(own(app, release), name): None for name in same}


def cleaned(app: str, release: str, seen: Snapshot, names: Collection[str]) -> Change:
    """None of *names* in the overlay, those gone already among them."""
    return {(own(app, release), name): None for name in names if (own(app, release), name) in seen.items}


def why(app: str, release: str, seen: Snapshot) -> dict[str, str]:
    """By key of the overlay, why it belongs to *release* alone."""
    place, reasons = own(app, release), {}
    for name, attributes in sorted(_overlay(app, release, seen).items()):
        held = "stays, with its own value" if (app, name) in seen.items else "has none"
        reasons[name] = f"kept {app}'s from {release}" if _hides(attributes) else f"only {place} has it; {app} {held}"
    return reasons


def restored(seen: Snapshot, revisions: Sequence[Revision], number: int) -> Change:
    """What makes the config again what it was at revision *number*; *revisions* are those after it."""
    if number > (seen.revision or 0):
        raise ConfigError(f"there is no revision {number} yet: {seen.revision or 0} is in force", hint="See `history`.")
    if [each.number for each in revisions] != [*range(number + 1, (seen.revision or 0) + 1)]:
        raise ConfigError(
            f"the history after revision {number} is not whole: revision {seen.revision} is in force",
            hint="See `history`; items of it may have been deleted by hand.",
        )
    change: dict[Key, Attributes | None] = {}
    for each in revisions:
        for key, changed in each.changes.items():
            change.setdefault(key, changed.before)
    return change


def batch(change: Change, seen: Snapshot) -> Change:
    """As much of *change*, from its first key on, as one transaction takes."""
    taken: dict[Key, Attributes | None] = {}
    for key, attributes in effective(change, seen).items():
        more = {**taken, key: attributes}
        if taken and (len(more) > MOST_KEYS or size(more, seen) > MOST_BYTES):
            break
        taken = more
    return taken


def effective(change: Change, seen: Snapshot) -> Change:
    """Without what is as it shall be already."""
    return {key: attributes for key, attributes in change.items() if seen.items.get(key) != attributes}


def check_size(change: Change, seen: Snapshot, several: str) -> None:
    """Raises ConfigError where *change* is more than a transaction takes; *several* says how to make more of it."""
    if len(change) == 1:
        several = "The history can't hold it: change this key by hand, in DynamoDB."
    if len(change) > MOST_KEYS:
        raise ConfigError(f"{len(change)} keys would change, of {MOST_KEYS} at once", hint=several)
    if (total := size(change, seen)) > MOST_BYTES:
        raise ConfigError(f"{total:,} bytes would change, of {MOST_BYTES:,} at once", hint=several)


def size(change: Change, seen: Snapshot) -> int:
    """Bytes of what is written, or of what it replaces and the history keeps, whichever is more."""
    old = sum(_bytes(key, seen.items.get(key)) for key in change)
    return max(old, sum(_bytes(key, attributes) for key, attributes in change.items()))


def _bytes(key: Key, attributes: Attributes | None) -> int:
    contents = (value for typed in (attributes or {}).values() for value in typed.values())
    texts: Iterable[object] = (*key, *contents)
    return sum(len(text) if isinstance(text, bytes) else len(str(text).encode()) for text in texts)


def _hides(attributes: Attributes) -> bool:
    return attributes.get("Unset") == UNSET["Unset"]  # also one by hand, with a comment of its own


def _overlay(app: str, release: str, seen: Snapshot) -> dict[str, Attributes]:
    place = own(app, release)
    found = {name: attributes for (at, name), attributes in seen.items.items() if at == place}
    if not found:
        raise ConfigError(f"{place} holds no key", hint=f"Is {release} the release's name? See `history`.")
    return found


def _chosen(app: str, release: str, seen: Snapshot, names: Collection[str]) -> dict[str, Attributes]:
    overlay = _overlay(app, release, seen)
    if missing := [name for name in names if name not in overlay]:
        raise ConfigError(f"{own(app, release)} has no {', '.join(missing)}", hint="See the names with `list`.")
    return {name: overlay[name] for name in names or overlay}


def _check_secret(key: Key, new: Attributes, seen: Snapshot) -> None:
    """Raises ConfigError where the secret at *key* would be followed by a value in the clear."""
    if "Value" in new and seen.items.get(key, {}).keys() & {"Secret", "Ref"}:
        raise ConfigError(
            f"{key[1]} of {key[0]} is a secret, and the new value would lie there in the clear",
            hint=f"Give it by --secret {key[1]}, or unset the key first.",
        )


def _check_result(app: str, release: str | None, seen: Snapshot, change: Change) -> None:
    """Raises ConfigError where no process could start with what *change* makes of the config; secrets count nothing."""
    after = {**seen.items, **change}
    texts: dict[str, str] = {}
    for place in partitions(app, release).values():
        held = {name: attributes for (at, name), attributes in after.items() if at == place and attributes}
        texts |= {
            name: attributes["Value"]["S"] for name, attributes in held.items() if "S" in attributes.get("Value", {})
        }
    check_environment(texts)


def _check_text(name: str, attributes: Attributes) -> None:
    """Raises ConfigError for the bytes of a command line that are not UTF-8."""
    try:
        for typed in attributes.values():
            _ = [held.encode() for held in typed.values() if isinstance(held, str)]
    except UnicodeEncodeError:
        raise ConfigError(f"the value of {name} is not UTF-8 text", hint="An environment holds text only.") from None
