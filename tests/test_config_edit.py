"""What a command changes is decided right, before anything is written."""

from collections.abc import Callable, Mapping

import pytest

from adf_agent.errors import ConfigError
from adf_agent.ops.configure import edit
from adf_agent.ops.configure.edit import Change
from adf_agent.ops.configure.history import Changed, Revision
from adf_agent.table import Attributes, Snapshot

BASE, OVERLAY = "web", "web@v42"
CANARY = "canary-5f2a"  # in values: no refusal may hold it
HIDDEN = edit.UNSET


def value(text: str) -> Attributes:
    return {"Value": {"S": text}}


SECRET: Attributes = {"Secret": {"B": b"cipher"}}
REF: Attributes = {"Ref": {"S": "ssm:/web/db"}}
Items = Mapping[tuple[str, str], Attributes]


def seen(items: Items, revision: int | None = 7) -> Snapshot:
    return Snapshot(revision, items)


def assigned(new: Mapping[str, Attributes], release: str | None = None) -> Callable[[Snapshot], Change]:
    return lambda there: edit.assigned("web", release, there, new)


def removed(*names: str, release: str | None = None) -> Callable[[Snapshot], Change]:
    return lambda there: edit.removed("web", release, there, names)


def hidden(*names: str, release: str | None = "v42") -> Callable[[Snapshot], Change]:
    return lambda there: edit.hidden("web", release, there, names)


def promoted(*names: str) -> Callable[[Snapshot], Change]:
    return lambda there: edit.promoted("web", "v42", there, names)


def emptied(*names: str) -> Callable[[Snapshot], Change]:
    return lambda there: edit.emptied("web", "v42", there, names)


def cleaned(there: Snapshot) -> Change:
    return edit.cleaned("web", "v42", there, ["B", "GONE"])


@pytest.mark.parametrize(
    ("there", "decide", "expected"),
    [
        ({}, assigned({"A": value("1")}), {(BASE, "A"): value("1")}),
        ({(BASE, "A"): value("1")}, assigned({"A": value("2")}, "v42"), {(OVERLAY, "A"): value("2")}),
        ({(BASE, "A"): SECRET}, assigned({"A": REF}), {(BASE, "A"): REF}),
        ({(BASE, "A"): value("1")}, assigned({"A": SECRET}), {(BASE, "A"): SECRET}),
        ({(BASE, "A"): {"Value": {"N": "1"}}}, assigned({"A": value("1")}), {(BASE, "A"): value("1")}),
        ({(OVERLAY, "A"): HIDDEN}, assigned({"A": value("1")}, "v42"), {(OVERLAY, "A"): value("1")}),
        ({(BASE, "bad name"): value("1")}, assigned({"A": value("1")}), {(BASE, "A"): value("1")}),
        ({(BASE, "A"): value("1"), (OVERLAY, "A"): value("2")}, removed("A"), {(BASE, "A"): None}),
        ({(OVERLAY, "A"): value("2")}, removed("A", release="v42"), {(OVERLAY, "A"): None}),
        ({(BASE, "bad name"): {}}, removed("bad name"), {(BASE, "bad name"): None}),
        ({(BASE, "A"): value("1")}, hidden("A"), {(OVERLAY, "A"): HIDDEN}),
        (
            {(BASE, "A"): value("1"), (BASE, "H"): value("x"), (OVERLAY, "A"): SECRET, (OVERLAY, "H"): HIDDEN},
            promoted(),
            {(BASE, "A"): SECRET, (BASE, "H"): None},
        ),
        ({(OVERLAY, "A"): value("1"), (OVERLAY, "B"): value("2")}, promoted("B"), {(BASE, "B"): value("2")}),
        (
            {
                (BASE, "A"): value("1"),
                (BASE, "B"): value("new"),
                (OVERLAY, "A"): value("1"),
                (OVERLAY, "B"): value("2"),
            },
            emptied(),
            {(OVERLAY, "A"): None},
        ),
        ({(OVERLAY, "H"): HIDDEN}, emptied(), {(OVERLAY, "H"): None}),
        ({(BASE, "H"): value("x"), (OVERLAY, "H"): {**HIDDEN, "Note": {"S": "x"}}}, promoted(), {(BASE, "H"): None}),
        ({(BASE, "H"): value("again"), (OVERLAY, "H"): HIDDEN}, emptied(), {}),
        ({(BASE, "A"): value("1"), (OVERLAY, "B"): SECRET, (OVERLAY, "C"): SECRET}, cleaned, {(OVERLAY, "B"): None}),
        ({(BASE, "A"): value("1")}, cleaned, {}),
    ],
)
def test_a_change_is_what_was_asked(there: Items, decide: Callable[[Snapshot], Change], expected: Change) -> None:
    """A key of the fleet's, written or removed where only the canary's was meant."""
    assert decide(seen(there)) == expected


@pytest.mark.parametrize(
    ("there", "decide", "sentence"),
    [
        ({}, assigned({"A-B": value(CANARY)}), "config key 'A-B' of web can't be the name of an environment variable"),
        (
            {},
            assigned({"": value(CANARY)}, "v42"),
            "config key '' of web@v42 can't be the name of an environment variable",
        ),
        ({}, assigned({"A": value(f"{CANARY}\0")}), "the value of config key A holds a NUL character"),
        ({}, assigned({"A": value(f"{CANARY}\udcff")}), "the value of A is not UTF-8 text"),
        ({}, assigned({"A": {"Ref": {"S": "ssm:/\udcff"}}}), "the value of A is not UTF-8 text"),
        (
            {},
            assigned({"A" * 1025: value(CANARY)}),
            f"config key {'A' * 1025!r} of web can't be the name of an environment variable",
        ),
        ({}, assigned({"A": value("x" * 131_070)}), "config key A is 131,072 bytes, of 131,071 allowed"),
        (
            {(BASE, f"K{n}"): value("x" * 120_000) for n in range(8)},
            assigned({"L": value("x" * 130_000)}, "v42"),
            "the config is 1,090,026 bytes, of 1,048,576 allowed; L alone is 130,002",
        ),
        (
            {(BASE, "A"): SECRET},
            assigned({"A": value(CANARY)}),
            "A of web is a secret, and the new value would lie there in the clear",
        ),
        (
            {(OVERLAY, "A"): REF},
            assigned({"A": value(CANARY)}, "v42"),
            "A of web@v42 is a secret, and the new value would lie there in the clear",
        ),
        (
            {(BASE, "A"): SECRET},
            assigned({"A": value(CANARY)}, "v42"),
            "A of web is a secret, and the new value would lie there in the clear",
        ),
        (
            {(BASE, "A"): REF, (OVERLAY, "A"): value(CANARY)},
            promoted(),
            "A of web is a secret, and the new value would lie there in the clear",
        ),
        ({(BASE, "A"): value("1")}, removed("A", "B", "C"), "web has no B, C"),
        ({(BASE, "A"): value("1")}, removed("A", release="v42"), "web@v42 has no A"),
        ({(OVERLAY, "A"): value("1")}, hidden("A"), "web has no A to hide"),
        ({(BASE, "A"): value("1")}, hidden("A", release=None), "a key is hidden from a release: none is named"),
        ({(BASE, "A"): value("1")}, promoted(), "web@v42 holds no key"),
        ({(OVERLAY, "A"): value("1")}, promoted("A", "B"), "web@v42 has no B"),
        (
            {**{(BASE, f"K{n}"): value("x" * 120_000) for n in range(8)}, (OVERLAY, "L"): value("x" * 130_000)},
            promoted(),
            "the config is 1,090,026 bytes, of 1,048,576 allowed; L alone is 130,002",
        ),
    ],
)
def test_what_no_container_could_start_with_is_refused(
    there: Items, decide: Callable[[Snapshot], Change], sentence: str
) -> None:
    """A key that is taken at the desk and ends the boot of every instance at night."""
    with pytest.raises(ConfigError) as caught:
        decide(seen(there))
    assert caught.value.sentence == sentence
    assert CANARY not in f"{caught.value.sentence} {caught.value.hint}"
    assert caught.value.hint
    assert not caught.value.transient


def test_why_a_key_goes_is_told_by_what_the_base_has() -> None:
    """An operator who says yes to a list of names, and learns later what they were."""
    there = {(BASE, "A"): value("1"), (OVERLAY, "A"): value("2"), (OVERLAY, "B"): SECRET, (OVERLAY, "H"): HIDDEN}
    assert edit.why("web", "v42", seen(there)) == {
        "A": "only web@v42 has it; web stays, with its own value",
        "B": "only web@v42 has it; web has none",
        "H": "kept web's from v42",
    }
    with pytest.raises(ConfigError, match="web@v41 holds no key"):
        edit.why("web", "v41", seen(there))


def revision(number: int, **before: Attributes | None) -> Revision:
    """A revision that changed keys of the base, which had *before*."""
    changes = {(BASE, name): Changed(former, "Value") for name, former in before.items()}
    return Revision(number, "2026-11-25T01:00:00+00:00", "arn", "me@here", "set", changes)


@pytest.mark.parametrize(
    ("now", "number", "revisions", "expected"),
    [
        (7, 7, [], {}),
        (7, 6, [revision(7, A=value("6"))], {(BASE, "A"): value("6")}),
        (
            3,
            1,
            [revision(2, A=value("1"), B=None), revision(3, A=value("2"))],
            {(BASE, "A"): value("1"), (BASE, "B"): None},
        ),
        (1, 0, [revision(1, A=None)], {(BASE, "A"): None}),
        (2, 0, [revision(1, A=None), revision(2, A=SECRET)], {(BASE, "A"): None}),
        (None, 0, [], {}),
    ],
)
def test_a_key_comes_back_as_the_first_later_revision_found_it(
    now: int | None, number: int, revisions: list[Revision], expected: Change
) -> None:
    """A rollback to the value before last."""
    assert edit.restored(seen({}, now), revisions, number) == expected


@pytest.mark.parametrize(
    ("now", "number", "revisions", "sentence"),
    [
        (7, 8, [], "there is no revision 8 yet: 7 is in force"),
        (None, 1, [], "there is no revision 1 yet: 0 is in force"),
        (7, 5, [revision(7, A=None)], "the history after revision 5 is not whole: revision 7 is in force"),
        (7, 5, [], "the history after revision 5 is not whole: revision 7 is in force"),
        (7, 5, [revision(6, A=None)], "the history after revision 5 is not whole: revision 7 is in force"),
    ],
)
def test_a_rollback_over_a_gap_is_refused(
    now: int | None, number: int, revisions: list[Revision], sentence: str
) -> None:
    """A rollback that gives back half of what was there, as somebody had tidied up the history."""
    with pytest.raises(ConfigError) as caught:
        edit.restored(seen({}, now), revisions, number)
    assert (caught.value.sentence, caught.value.transient) == (sentence, False)


def keys(count: int, size: int, place: str = BASE) -> dict[tuple[str, str], Attributes]:
    return {(place, f"K{number:03}"): value("x" * size) for number in range(count)}


@pytest.mark.parametrize(
    ("change", "there", "first"),
    [
        (keys(98, 1), {}, 98),
        (keys(99, 1), {}, 98),
        (keys(3, 120_000), {}, 2),
        (dict.fromkeys(keys(3, 0)), keys(3, 120_000), 2),
        (keys(2, 170_000), keys(2, 170_000, OVERLAY), 2),
        (keys(1, 400_000), {}, 1),
        (keys(98, 1) | keys(99, 2), keys(98, 2), 1),
    ],
)
def test_a_batch_is_what_one_transaction_takes(change: Change, there: Items, first: int) -> None:
    """A clean-up that DynamoDB refuses as a whole, or one that writes half of it."""
    taken = edit.batch(change, seen(there))
    assert len(taken) == first
    assert taken.items() <= change.items()


@pytest.mark.parametrize(
    ("change", "there", "sentence"),
    [
        (keys(99, 1), {}, "99 keys would change, of 98 at once"),
        (keys(3, 119_460), {}, "358,401 bytes would change, of 358,400 at once"),
        (dict.fromkeys(keys(4, 0)), keys(4, 100_000), "400,028 bytes would change, of 358,400 at once"),
        ({(BASE, "A"): {"Secret": {"B": b"\xff" * 359_000}}}, {}, "359,004 bytes would change, of 358,400 at once"),
        ({(BASE, "A"): value("é" * 180_000)}, {}, "360,004 bytes would change, of 358,400 at once"),
    ],
)
def test_a_change_too_large_for_one_transaction_is_refused(change: Change, there: Items, sentence: str) -> None:
    """An error of DynamoDB's that names neither the limit nor what to do."""
    with pytest.raises(ConfigError) as caught:
        edit.check_size(change, seen(there), "Do less.")
    hint = "Do less." if len(change) > 1 else "The history can't hold it: change this key by hand, in DynamoDB."
    assert (caught.value.sentence, caught.value.hint) == (sentence, hint)


def test_the_largest_change_is_let_through() -> None:
    """A limit one byte off refuses an import that has always worked."""
    everything = keys(98, 3_646)
    assert edit.size(everything, seen(everything)) == 98 * (3 + 4 + 3_646)
    edit.check_size(everything, seen(everything), "")


def test_what_is_as_it_shall_be_is_no_change() -> None:
    """A revision a run of CI, each of which changes nothing: the one that did is not found any more."""
    there = {(BASE, "A"): value("1"), (BASE, "B"): value("2")}
    change = {(BASE, "A"): value("1"), (BASE, "B"): value("3"), (BASE, "C"): None}
    assert edit.effective(change, seen(there)) == {(BASE, "B"): value("3")}
