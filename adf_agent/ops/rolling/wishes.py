"""What an operator asks of a roll."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wishes:
    """The words of `adf-roll start`, parsed. Durations in seconds.

    One of *url*, *image*, *replace* and *version* at least is given; *version* (an existing one of the launch template,
    to go back to) is given alone.
    """

    group: str
    url: str = ""  # RELEASE_URL
    name: str = ""  # ADF_RELEASE; derived from the URL without it
    image: str = ""  # an AMI's id
    replace: bool = False  # every instance, though its configuration stays
    version: int = 0
    canary: str = "1"  # a number of instances, or a percentage of the group: "10%"
    bake: int = 120
    check: str = ""  # a shell's command, run when the canary is well
    alarms: tuple[str, ...] = ()  # names of CloudWatch alarms
    clean: bool = False  # afterwards, the config that only the former release had
    batch: int = 10  # percent of the group that is launched at once, before as many are terminated
