"""Who signed a release: minisign's public keys and signatures (https://jedisct1.github.io/minisign/).

Ed25519 is openssl's own: the libraries for Python have a compiled part, for one version of it and one architecture.
"""

import binascii
import subprocess
from base64 import b64decode
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile

from adf_agent.errors import ReleaseError

SUFFIX = ".minisig"
LARGEST = 16 << 10  # bytes; the comments take 9 kB at most
PUBLIC_BYTES, SIGNATURE_BYTES, SEAL_BYTES = 42, 74, 64
PREHASHED, LEGACY = b"ED", b"Ed"
UNTRUSTED, TRUSTED = b"untrusted comment: ", b"trusted comment: "
RELEASE = "release:"  # before the release's name, in the trusted comment that `adf-release create --sign` makes
DER = bytes.fromhex("302a300506032b6570032100")  # before an Ed25519 key (RFC 8410, 4)
OPENSSL = ("openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin")
OPENSSL_SECONDS = 30.0  # it takes some milliseconds
FAILED = b"Signature Verification Failure"
HINT = "Sign it again (adf-release create --sign, or minisign -SH), and deliver both files."


@dataclass(frozen=True)
class Key:
    """A public key. *id* is what minisign calls it by, 16 hexadecimal digits or fewer."""

    id: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "Key":
        """From the line of minisign.pub that begins with RW. Raises ValueError, which does not repeat it."""
        raw = _decoded(text.encode(), PUBLIC_BYTES)
        if raw is None or raw[:2] != LEGACY:  # of a key, the one form that there is
            raise ValueError("must be public keys of minisign's: of each minisign.pub the line that begins with RW")
        return cls(_id(raw), raw[10:])


def keys(text: str) -> tuple[Key, ...]:
    """From ADF_RELEASE_KEYS; never none, as that would guard nothing. Raises ValueError."""
    return tuple(Key.parse(part) for part in text.replace(",", " ").split() or [text])


@dataclass(frozen=True)
class Signature:
    """What a file .minisig says: the key *id* signed the bytes (*own*), and that signature with *comment* (*seal*)."""

    id: str
    own: bytes
    comment: bytes
    seal: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Signature":
        """Raises ReleaseError where it is none, or one of the legacy form."""
        lines = [line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
        if len(lines) != 4 or not (lines[0].startswith(UNTRUSTED) and lines[2].startswith(TRUSTED)):  # noqa: PLR2004
            raise _malformed()
        raw, seal = _decoded(lines[1], SIGNATURE_BYTES), _decoded(lines[3], SEAL_BYTES)
        if raw is None or seal is None or raw[:2] not in (PREHASHED, LEGACY):
            raise _malformed()
        if raw[:2] == LEGACY:
            raise ReleaseError(
                "the release's signature has minisign's legacy form, and the prehashed one is asked for",
                hint="Sign it again, by adf-release create --sign or minisign -SH.",
            )
        return cls(_id(raw), raw[10:], lines[2].removeprefix(TRUSTED), seal)

    def verify(self, prehash: bytes, keys: Iterable[Key], name: str) -> None:
        """Raises ReleaseError unless one of *keys* signed the bytes whose BLAKE2b-512 is *prehash*.

        A trusted comment that names the release must name it *name*.
        """
        key = next((key for key in keys if key.id == self.id), None)
        if key is None:
            raise ReleaseError(
                f"the release is signed by the key {self.id}, which is none of those that may sign",
                hint="Sign it by a key of ADF_RELEASE_KEYS (agent.env), or bake an AMI that has this key there.",
            )
        if not _verified(key, prehash, self.own):
            raise ReleaseError(
                f"the release's bytes are not those that the key {key.id} signed",
                hint=f"Somebody changed the release or its signature. {HINT}",
            )
        if not _verified(key, self.own + self.comment, self.seal):
            raise ReleaseError(
                f"the trusted comment of the release's signature is not the one that the key {key.id} signed",
                hint=f"Somebody changed it. {HINT}",
            )
        names = [part.removeprefix(RELEASE) for part in self.shown.split("\t") if part.startswith(RELEASE)]
        if names and names != [name]:
            raise ReleaseError(
                f"the release was signed as {', '.join(names)}, and RELEASE_URL names {name}",
                hint="An older release may have been put in its place. Name it as it was signed, or sign it again.",
            )

    @property
    def shown(self) -> str:
        """The trusted comment, as a text."""
        return self.comment.decode(errors="replace")


def _id(raw: bytes) -> str:
    return f"{int.from_bytes(raw[2:10], 'little'):X}"  # as minisign prints it, without leading zeros


def _decoded(text: bytes, size: int) -> bytes | None:
    """The *size* bytes of *text*, which is base64; None where it is not."""
    try:
        raw = b64decode(text, validate=True)
    except binascii.Error:
        return None
    return raw if len(raw) == size else None


def _malformed() -> ReleaseError:
    return ReleaseError("the release's signature is none of minisign's, or cut short", hint=HINT)


def _verified(key: Key, message: bytes, signature: bytes) -> bool:
    """Whether *signature* is *key*'s of *message*. Raises ReleaseError where openssl can't tell."""
    try:
        with ExitStack() as files:
            # Nameless, so that nothing is left of them. Not by pipes, as openssl asks for the message's size first.
            opened = [files.enter_context(TemporaryFile(buffering=0)) for _ in range(3)]
            for file, data in zip(opened, (DER + key.public, message, signature), strict=True):
                file.write(data)
                file.seek(0)
            names = [f"/dev/fd/{file.fileno()}" for file in opened]
            options = [word for pair in zip(("-inkey", "-in", "-sigfile"), names, strict=True) for word in pair]
            done = subprocess.run(
                [*OPENSSL, *options],
                pass_fds=[file.fileno() for file in opened],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=OPENSSL_SECONDS,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == OPENSSL[0]
        why = "openssl is missing" if missing else str(getattr(error, "strerror", "") or "openssl does not answer")
        raise _unable(why) from error
    if done.returncode and FAILED not in done.stdout + done.stderr:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _unable(f"openssl says {said[-1] if said else 'nothing'!r}")
    return not done.returncode


def _unable(why: str) -> ReleaseError:
    return ReleaseError(
        f"the release's signature can't be verified: {why}", hint="Install openssl 3 into the AMI.", cause="host"
    )
