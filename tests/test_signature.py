"""With ADF_RELEASE_KEYS nothing runs that no key of theirs signed, by the real minisign in both directions."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import docker
import pytest
from fixtures_agent import BASE, Machine, app, tarball
from fixtures_operator import environment as credentials
from fixtures_repository import MAIN, Clone
from fixtures_web import plain, surfer
from hypothesis import given
from hypothesis import strategies as st
from signer import Signer, signer_in
from test_bad_input import registry
from test_boot import free_port, page, reboot
from test_release_github import Hub
from test_release_verify import run as verify
from web import Answer, Web

from adf_agent import release, store
from adf_agent.deadline import Deadline
from adf_agent.download import Body, fetch, read
from adf_agent.errors import ReleaseError, SettingsError
from adf_agent.location import beside, parse
from adf_agent.notation import Limits
from adf_agent.ops.release.build import build
from adf_agent.ops.rolling.verified import verified
from adf_agent.sandbox.cloud import Cloud
from adf_agent.signature import LARGEST, Key, Signature, _verified, keys
from adf_agent.web import Web as WebSource

DATA = tarball(app())
SERVES = f'FROM {BASE}\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\nCMD ["/bin/httpd", "-f", "-p", "8000", "-h", "/"]\n'
HEX = "0123456789abcdef" * 4


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """Whom the AMI trusts."""
    return signer_in(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """Whom it does not."""
    return signer_in(tmp_path_factory.mktemp("stranger"))


def within(seconds: float = 20) -> Deadline:
    return Deadline(seconds, Event())


def obtain(url: str, *trusted: Key, folder: Path | None = None, client: Any = None) -> release.Release:
    """The release at *url*, as the stage takes it where *trusted* is in agent.env."""
    location = parse(url)

    def source(at: Any) -> Any:
        return store.source(at, lambda: client, None)

    folder = folder or Path(location.path or "").parent / "var"
    folder.mkdir(exist_ok=True)
    signers = release.signers(location, trusted, source)
    return release.obtain(location, location.name, source(location), folder, Limits(), within(), signers)


def refused(url: str, says: str, *trusted: Key, folder: Path | None = None, client: Any = None) -> ReleaseError:
    """Why it is not taken; nothing is left of it then."""
    with pytest.raises(ReleaseError, match=says) as caught:
        obtain(url, *trusted, folder=folder, client=client)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (12, True)
    folder = folder or Path(parse(url).path or "").parent / "var"
    assert not folder.exists() or list(folder.iterdir()) == []
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(DATA)
    return path


# What is taken


@pytest.mark.parametrize("options", [("-H",), ("-H", "-t", "release:v1"), ("-H", "-t", "a\tb", "-c", "x"), ()])
def test_what_minisign_signed_is_taken_and_is_named(
    file: Path, signer: Signer, stranger: Signer, options: tuple[str, ...]
) -> None:
    """A fleet that refuses every release on the day that signatures are asked for."""
    signer.sign(file, *options)
    found = obtain(file.as_uri(), stranger.key, signer.key)
    assert found.digest == hashlib.sha256(DATA).hexdigest()
    assert found.fact.endswith(f", signed by {signer.key.id}")
    assert f"key {signer.key.id}" in (signer.folder / "minisign.pub").read_text()


def test_the_comment_that_nobody_signed_is_nobodys_business(file: Path, signer: Signer) -> None:
    """A release refused as somebody copied the signature by way of Windows, or wrote a note into it."""
    path = signer.sign(file, "-H")
    path.write_bytes(path.read_bytes().replace(b"untrusted comment: ", b"untrusted comment: bought ", 1))
    assert obtain(file.as_uri(), signer.key).signature
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert signer.takes(file)
    assert obtain(file.as_uri(), signer.key).signature


def test_without_keys_no_signature_is_asked_for(web: Web, tmp_path: Path) -> None:
    """A fleet of before that asks for a file that nobody ever made."""
    url = web.serve("/v1.tar.gz", Answer(200, DATA))
    found = obtain(f"{url}#sha256={hashlib.sha256(DATA).hexdigest()}", folder=tmp_path / "var")
    assert (found.signature, [asked.path for asked in web.asked]) == (None, ["/v1.tar.gz"])


# What is refused

Change = Callable[[bytes], bytes]


def line(number: int, change: Change) -> Change:
    """The change of one line's base64."""

    def changed(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[number] = b64encode(change(b64decode(lines[number])))
        return b"\n".join(lines)

    return changed


def flipped(place: int) -> Change:
    return lambda raw: raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


TAMPERED: dict[str, tuple[Change, str]] = {
    "signature": (line(1, flipped(20)), "are not those that the key"),
    "key id": (line(1, flipped(3)), "which is none of those that may sign"),
    "seal": (line(3, flipped(5)), "trusted comment of the release's signature is not the one"),
    "trusted comment": (lambda data: data.replace(b"file:v1", b"file:v9"), "trusted comment"),
    "no algorithm": (line(1, lambda raw: b"XX" + raw[2:]), "none of minisign's"),
    "one byte less": (line(1, lambda raw: raw[:-1]), "none of minisign's"),
    "one byte more": (line(3, lambda raw: raw + b"x"), "none of minisign's"),
    "not base64": (lambda data: data.replace(b"RU", b"R\xffU", 1), "none of minisign's"),
    "cut short": (lambda data: data[:150], "none of minisign's"),
    "another line": (lambda data: data + b"x\n", "none of minisign's"),
    "empty": (lambda _: b"", "none of minisign's"),
    "a page": (lambda _: b"<html>\n\n\n</html>", "none of minisign's"),
    "too large": (lambda data: data + bytes(LARGEST), f"signature holds more than {LARGEST} bytes"),
}


@pytest.mark.parametrize(("change", "says"), TAMPERED.values(), ids=TAMPERED)
def test_a_signature_that_was_changed_is_refused(file: Path, signer: Signer, change: Change, says: str) -> None:
    """A release of somebody's who can write to the bucket, run as root by a whole fleet."""
    path = signer.sign(file, "-H")
    path.write_bytes(change(path.read_bytes()))
    refused(file.as_uri(), says, signer.key)


@pytest.mark.parametrize("data", [DATA + b"x", DATA[:-1], b"no tarball", b"", tarball({**app(), "../x": "y"})])
def test_bytes_that_were_changed_are_refused_before_anything_reads_them(
    file: Path, signer: Signer, data: bytes
) -> None:
    """A hole in what unpacks archives, open to everybody who can write to the bucket."""
    signer.sign(file, "-H")
    file.write_bytes(data)
    refused(file.as_uri(), "bytes are not those that the key", signer.key)


def test_what_is_signed_and_no_release_is_refused_all_the_same(file: Path, signer: Signer) -> None:
    """A signature taken for a reason to skip the archive's rules, or the digest that RELEASE_URL pins."""
    url = file.as_uri()
    signer.sign(file, "-H")
    refused(f"{url}#sha256={HEX}", "RELEASE_URL pins", signer.key)
    file.write_bytes(tarball({**app(), "../x": "y"}))
    signer.sign(file, "-H")
    refused(url, "'..' in its name", signer.key)


def test_another_key_is_refused_also_under_a_trusted_ones_name(file: Path, signer: Signer, stranger: Signer) -> None:
    """Anybody's signature, as the id that says whose it is can be written by anybody."""
    stranger.sign(file, "-H")
    refused(file.as_uri(), f"{stranger.key.id}, which is none of those", signer.key)
    refused(file.as_uri(), "are not those", replace(signer.key, id=stranger.key.id))


def test_the_legacy_form_is_refused_by_its_name(file: Path, signer: Signer) -> None:
    """An operator who looks for a fault of the key's, as an old minisign signed."""
    signer.sign(file, "-l")
    refused(file.as_uri(), "legacy form", signer.key)


def test_an_older_release_in_the_place_of_a_newer_is_refused(file: Path, signer: Signer) -> None:
    """A hole that v2 closed, opened by whoever puts v1 with its good signature where v2 was."""
    signer.sign(file, "-H", "-t", "release:v1")
    for path in (file, file.with_name("v1.tar.gz.minisig")):
        path.rename(path.with_name(path.name.replace("v1", "v2")))
    refused(file.with_name("v2.tar.gz").as_uri(), "was signed as v1, and RELEASE_URL names v2", signer.key)


def test_a_release_without_signature_is_not_even_downloaded(internet: Web, tmp_path: Path) -> None:
    """Gigabytes on the disk of somebody's who signed nothing; a boot that waits for a signature to come."""
    internet.serve("https://releases.example/v1.tar.gz", Answer(200, DATA))
    at = parse("https://releases.example/v1.tar.gz")
    source = WebSource(at, None, surfer(internet))
    signers = release.Signers((), WebSource(beside(at, ".minisig"), None, surfer(internet)))
    with pytest.raises(ReleaseError, match=r"is not signed: .*v1.tar.gz.minisig answers 404") as caught:
        release.obtain(at, at.name, source, tmp_path, Limits(), within(), signers)
    assert not caught.value.transient
    assert "adf-release create --sign" in caught.value.hint
    assert [asked.path for asked in internet.asked] == ["https://releases.example/v1.tar.gz.minisig"]
    (tmp_path / "v1.tar.gz").write_bytes(DATA)
    refused((tmp_path / "v1.tar.gz").as_uri(), "is not signed: .*is no file", Key("0" * 16, b""))


def test_a_small_file_comes_whole_or_not_at_all() -> None:
    """A note without its end that is JSON still."""

    class Short:
        def open(self, offset: int, proof: str) -> Body:
            assert (offset, proof) == (0, "")
            return Body((chunk for chunk in [b"{}"]), 0, 3, "")

    with pytest.raises(ReleaseError, match="broke off after 2 of 3 bytes") as caught:
        read(Short(), 9, "the note", within(0.1))
    assert caught.value.transient


def test_a_signature_that_breaks_off_is_asked_for_again(web: Web, file: Path, signer: Signer) -> None:
    """An instance lost to a second's overload of the server that holds its signature."""
    data = signer.sign(file, "-H").read_bytes()
    url = web.serve("/v1.tar.gz.minisig", Answer(503), Answer(200, data, cut=99), Answer(200, data))
    at = parse(f"{url}#sha256={HEX}")
    assert release.Signers((), WebSource(at, None, plain())).signature(within()) == Signature.parse(data)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_that_broke_off_has_the_signature_of_the_whole(
    web: Web, file: Path, signer: Signer, resumes: bool
) -> None:
    """A release refused as tampered with whenever the network was bad."""
    signature = Signature.parse(signer.sign(file, "-H").read_bytes())
    about = {"ETag": '"1"', "Content-Range": f"bytes 100-{len(DATA) - 1}/{len(DATA)}"}
    again = Answer(206, DATA[100:], about) if resumes else Answer(200, DATA)
    url = web.serve("/v1.tar.gz", Answer(200, DATA, {"ETag": '"1"'}, cut=100), again)
    fetched = fetch(WebSource(parse(f"{url}#sha256={HEX}"), None, plain()), file, within(), signed=True)
    assert (len(web.asked), file.read_bytes()) == (2, DATA)
    signature.verify(fetched.prehash, [signer.key], "v1")


def test_a_private_asset_has_its_signature_beside_it(internet: Web, file: Path, signer: Signer) -> None:
    """A private release whose signature is asked for without the token, and is not there."""
    api = "https://api.github.com/repos/o/r/releases"
    assets = {"v1.tar.gz": DATA, "v1.tar.gz.minisig": signer.sign(file, "-H").read_bytes()}
    listed = [{"name": name, "id": number} for number, name in enumerate(assets)]
    internet.serve(f"{api}/tags/v1", Answer(200, json.dumps({"assets": listed}).encode()))
    for number, data in enumerate(assets.values()):
        internet.serve(f"{api}/assets/{number}", Answer(200, data))
    location = parse("https://github.com/o/r/releases/download/v1/v1.tar.gz")

    def source(at: Any) -> WebSource:
        return WebSource(at, lambda: "token", surfer(internet))

    signers = release.signers(location, (signer.key,), source)
    found = release.obtain(location, "v1", source(location), file.parent, Limits(), within(), signers)
    assert found.signature is not None


def test_an_object_of_s3_has_its_signature_beside_it(cloud: Cloud, tmp_path: Path, file: Path, signer: Signer) -> None:
    """A release pinned to its version, whose signature is asked for by the version of another object."""
    client = cloud.client("s3")
    client.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.put_bucket_versioning(Bucket="releases", VersioningConfiguration={"Status": "Enabled"})
    version = client.put_object(Bucket="releases", Key="web/v 1.tar.gz", Body=DATA)["VersionId"]
    url, folder = f"s3://releases/web/v%201.tar.gz?versionId={version}", tmp_path / "var"
    refused(url, "is not signed: .*v 1.tar.gz.minisig.*NoSuchKey", signer.key, folder=folder, client=client)
    data = signer.sign(file, "-H").read_bytes()
    client.put_object(Bucket="releases", Key="web/v 1.tar.gz.minisig", Body=data)
    assert obtain(url, signer.key, folder=folder, client=client).signature


BESIDE = [
    ("https://h.example/a/v1.tar.gz?x=%2F&y#sha256=" + HEX, "https://h.example/a/v1.tar.gz.minisig?x=%2F&y"),
    ("HTTPS://me:pw@h.example:8443/v1%3F.tgz", "https://me:pw@h.example:8443/v1%3F.tgz.minisig"),
    ("s3://bucket/a/v1%3F.tgz?versionId=x#sha256=" + HEX, "s3://bucket/a/v1%3F.tgz.minisig"),
    ("file:///srv/a%20b.tgz", "file:///srv/a%20b.tgz.minisig"),
    (
        "https://github.com/o/r/releases/download/v1/app.tgz",
        "https://github.com/o/r/releases/download/v1/app.tgz.minisig",
    ),
]


@pytest.mark.parametrize(("url", "expected"), BESIDE)
def test_a_signature_lies_at_the_path_and_minisig(url: str, expected: str) -> None:
    """A signature looked for behind the query, or at a version of another object."""
    assert beside(parse(url), ".minisig").url == expected


REFUSED = {
    "docker://registry.example/web:v1": ("docker://", "Name the image by its digest in a note"),
    f"docker://registry.example/web@sha256:{HEX}": ("docker://", "sign that"),
    f"http://h.example/v1.tgz#sha256={HEX}": ("http://", "Use https://"),
    "https://github.com/o/r/archive/v1.tar.gz": ("an archive", "assets of a release"),
    "https://api.github.com/repos/o/r/releases/assets/7": ("a number of GitHub's", "assets of a release"),
}


@pytest.mark.parametrize(("url", "says"), REFUSED.items())
def test_a_form_that_can_not_be_signed_is_refused_by_its_name(
    url: str, says: tuple[str, str], signer: Signer, tmp_path: Path
) -> None:
    """An image by a tag that anybody may move, on an AMI that is believed to take signed releases only."""
    error = refused(url, "takes signed releases only", signer.key, folder=tmp_path / "var")
    assert (says[0] in error.sentence, says[1] in error.hint) == (True, True)


# Notes

IMAGE = f"registry.example/web:v1@sha256:{HEX}"


def noted(tmp_path: Path, about: Any, name: str = "v1.release.json") -> Path:
    path = tmp_path / name
    path.write_text(about if isinstance(about, str) else json.dumps(about))
    return path


def test_an_image_is_taken_by_a_signed_note(tmp_path: Path, signer: Signer, stranger: Signer) -> None:
    """A fleet of images that has to do without signatures."""
    path = noted(tmp_path, {"image": IMAGE, "name": "v1"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert obtain(path.as_uri()).location == parse(f"docker://{IMAGE}")
    signer.sign(path, "-H")
    found = obtain(f"{path.as_uri()}#sha256={digest}", signer.key)
    assert (found.name, found.digest, found.location.reference) == ("v1", HEX, IMAGE)
    assert (found.archive, found.note) == (None, digest)
    refused(f"{path.as_uri()}#sha256={HEX}", "RELEASE_URL pins", signer.key)
    refused(path.as_uri(), "none of those that may sign", stranger.key)
    path.write_text(path.read_text().replace("web", "bad"))
    refused(path.as_uri(), "are not those", signer.key)


NOTES = {
    "no JSON": ("{", "no JSON"),
    "no end of brackets": ("[" * 10_000, "no JSON"),
    "a list": ([], "names no image"),
    "an unknown key": ({"image": IMAGE, "name": "v1", "more": 1}, "names no image"),
    "no name": ({"image": IMAGE}, "names no image"),
    "a tarball's": ({"name": "v1", "commit": "c", "digest": HEX}, "is that of a tarball"),
    "a tag": ({"image": "registry.example/web:v1", "name": "v1"}, "by no digest"),
    "no reference": ({"image": f"docker://{IMAGE}", "name": "v1"}, "by no digest"),
    "a number": ({"image": 7, "name": "v1"}, "by no digest"),
    "another release": ({"image": IMAGE, "name": "v0"}, "is that of release 'v0', and RELEASE_URL names 'v1'"),
    "a list of names": ({"image": IMAGE, "name": ["v1"]}, "is that of release"),
    "too large": ({"image": IMAGE, "name": "v" * LARGEST}, "note about the release holds more than"),
}


@pytest.mark.parametrize(("about", "says"), NOTES.values(), ids=NOTES)
def test_a_note_that_names_no_image_by_its_digest_is_refused(tmp_path: Path, about: Any, says: str) -> None:
    """A signature that binds nothing, as what is signed names an image by a tag."""
    refused(noted(tmp_path, about).as_uri(), says)


def test_a_signed_image_is_verified_pulled_and_boots(
    machine: Machine, docker_client: docker.DockerClient, base_image: str, signer: Signer, tmp_path: Path
) -> None:
    """A note that is right for the agent and for nobody who looks before."""
    with registry(tmp_path) as address:
        docker_client.api.tag(base_image, f"{address}/web", "v1")
        docker_client.images.build(fileobj=io.BytesIO(SERVES.encode()), tag=f"{address}/web:v1", rm=True)
        pushed: list[dict[str, Any]] = list(docker_client.api.push(f"{address}/web", "v1", stream=True, decode=True))
        docker_client.images.remove(f"{address}/web:v1")
        image = f"{address}/web@{pushed[-1]['aux']['Digest']}"
        path = noted(tmp_path, {"image": image, "name": "v1"})
        signer.sign(path, "-H")
        pinned = f"{path.as_uri()}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"
        code, out, log = verify(path.as_uri(), "--key", signer.public)
        facts = dict(each.split(maxsplit=1) for each in out.splitlines())
        assert (code, facts["name"], facts["url"], facts["pinned"]) == (0, "v1", path.as_uri(), pinned), log
        assert (facts["image"], facts["digest"]) == (f"docker://{image}", image.rpartition(":")[2])
        release = verified(path.as_uri(), within())
        assert (release.error, release.unseen, path.as_uri() + release.pin) == ("", "", pinned)
        machine.agent_env(ADF_RELEASE_KEYS=signer.public)
        booted = machine.boot(RELEASE_URL=pinned, ADF_PUBLISH=f"{free_port()}:8000")
    assert booted.code == 0, booted.log
    shown = booted.status["release"]
    assert (shown["name"], shown["url"], shown["digest"]) == ("v1", pinned, facts["digest"])
    reboot(machine)
    path.unlink()
    assert machine.run("boot").code == 0


def test_there_is_nothing_to_build_of_a_note(tmp_path: Path) -> None:
    """An image pushed under a name of its own, though there is one."""
    with pytest.raises(SettingsError, match="that of an image"):
        build(noted(tmp_path, {}).as_uri(), "registry.example/web", "auto", Limits(), within())


# openssl


def test_without_openssl_nothing_is_taken(file: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AMI that lacks a package, and takes every release for it."""
    signer.sign(file, "-H")
    monkeypatch.setenv("PATH", str(file.parent))
    error = refused(file.as_uri(), "can't be verified: openssl is missing", signer.key)
    assert error.cause == "host"
    old = file.parent / "openssl"
    for script, says in (("echo 'unknown option -rawin' >&2; exit 1", "unknown option"), ("exit 1", "nothing")):
        old.write_text(f"#!/bin/sh\n{script}\n")
        old.chmod(0o755)
        refused(file.as_uri(), f"can't be verified: openssl says '{says}", signer.key)


def test_ed25519_is_that_of_rfc_8032() -> None:
    """Two programs that agree with each other, and with nobody else."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert _verified(Key("", public), b"\x72", signature)
    assert not _verified(Key("", public), b"x", signature)


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_no_bytes_at_all_are_more_than_refused(data: bytes) -> None:
    """An exception of another kind would end the boot as a fault of the agent, with no hint."""
    with suppress(ReleaseError):
        Signature.parse(b"untrusted comment: x\n" + data)
    with suppress(ReleaseError):
        Signature.parse(b"untrusted comment: x\n%b\ntrusted comment: x\n%b\n" % (b64encode(data), b64encode(data)))


def test_a_key_is_called_as_minisign_calls_it() -> None:
    """An operator who looks for a key that nobody has, once in sixteen keys."""
    raw = b"Ed" + bytes.fromhex("4F5600F9BCA1450C") + bytes(32)
    assert Key.parse(b64encode(raw).decode()) == Key("C45A1BCF900564F", bytes(32))


@pytest.mark.parametrize("text", ["RWQ", "", ",", "RW" + "A" * 54 + "A", "RU" + "A" * 54, "é" * 56, "RW" + "*" * 54])
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    """A secret key, pasted in its public one's place, on the console of every instance."""
    with pytest.raises(ValueError, match=r"^must be public keys of minisign's") as caught:
        keys(f"{text},{text}" if text else text)
    assert not text.strip(",") or text not in str(caught.value)


# The boot


def test_a_signed_release_boots_and_another_does_not(machine: Machine, signer: Signer, stranger: Signer) -> None:
    """An AMI that is believed to take signed releases only, and takes any."""
    machine.agent_env(ADF_RELEASE_KEYS=f"{stranger.public},{signer.public}")
    url, port = machine.release(app("signed")), free_port()
    signature = signer.sign(machine.root / "v1.tar.gz", "-H")
    booted = machine.boot(RELEASE_URL=url, ADF_PUBLISH=f"{port}:8000")
    assert booted.code == 0, booted.log
    assert page(port) == "signed"
    facts = {stage["name"]: stage["fact"] for stage in booted.status["stages"]}
    assert facts["release"].endswith(f"signed by {signer.key.id}")
    signature.unlink()
    reboot(machine)
    assert machine.run("boot").code == 0  # as recorded here
    machine.agent_env(ADF_RELEASE_KEYS=stranger.public)  # the other one is known to others now
    again = machine.run("boot")
    assert (again.code, again.error["stage"]) == (12, "release")
    assert "is not signed" in again.error["sentence"]
    machine.agent_env(ADF_RELEASE_KEYS=signer.public)
    image = machine.boot(RELEASE_URL="docker://registry.example/web:v1")
    assert (image.code, image.error["stage"]) == (12, "release")
    assert "docker://" in image.error["sentence"]
    machine.agent_env(ADF_RELEASE_KEYS=signer.public[:-4])
    wrong = machine.run("boot")
    assert (wrong.code, wrong.error["stage"]) == (10, "settings")


# adf-release


def in_bucket(client: Any, name: str) -> bytes:
    data: bytes = client.get_object(Bucket="releases", Key=name)["Body"].read()
    return data


@pytest.mark.parametrize("place", ["folder", "s3", "github"])
def test_a_release_is_signed_and_delivered_with_it_once(
    clone: Clone, signer: Signer, stranger: Signer, cloud: Cloud, internet: Web, tmp_path: Path, place: str
) -> None:
    """A release that no instance takes, as its signature stayed on the laptop or another took its place."""
    clone.git("tag", "v1")
    hub = Hub(internet, "v1")
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    proxy = {"HTTPS_PROXY": internet.url, "NO_PROXY": "", "REQUESTS_CA_BUNDLE": str(internet.certificate)}
    places: dict[str, tuple[str, dict[str, str], Callable[[str], bytes]]] = {
        "folder": (str(tmp_path / "out"), {}, lambda name: (tmp_path / "out" / name).read_bytes()),
        "s3": ("s3://releases", credentials(cloud), partial(in_bucket, s3)),
        "github": ("github:o/r", {**proxy, "GH_TOKEN": "x"}, lambda name: hub.assets[name][1]),
    }
    to, environment, read = places[place]
    words = ("--to", to, "--sign", str(signer.secret))
    code, out, err = clone.ran(*words, environment=environment)
    assert (code, out.count("\n")) == (0, 1), err
    names = [text.partition(":")[0] for text in err.splitlines() if " sha256 " in text]
    assert names == ["v1.tar.gz", "v1.tar.gz.minisig", "v1.release.json"]
    got = tmp_path / "got"
    got.mkdir()
    for name in names:
        (got / name).write_bytes(read(name))
    assert "Trusted comment: release:v1" in signer.takes(got / "v1.tar.gz")
    assert obtain((got / "v1.tar.gz").as_uri(), signer.key).signature
    code, again, err = clone.ran(*words, environment=environment)
    assert (code, again, err.count("already there")) == (0, out, 3)
    code, out, err = clone.ran("--to", to, "--sign", str(stranger.secret), environment=environment)
    assert (code, out, "holds other bytes" in err) == (12, "", True)
    assert read("v1.tar.gz.minisig") == (got / "v1.tar.gz.minisig").read_bytes()


def test_a_signed_release_in_the_work_tree_leaves_it_clean(clone: Clone, signer: Signer) -> None:
    """The same command that fails the second time, as its own file is not committed."""
    first = clone.create(".", name="v1", sign=str(signer.secret))
    assert clone.create(".", name="v1", sign=str(signer.secret)) == first
    clone.write({"v2.tar.gz.minisig": "x"})
    with pytest.raises(ReleaseError, match=r"1 file \(v2.tar.gz.minisig\) would be left out"):
        clone.create(".", name="v1", sign=str(signer.secret))


@pytest.mark.parametrize(("typed", "code"), [("right\n", 0), ("wrong\n", 12)])
def test_the_password_is_minisigns_to_ask_for(clone: Clone, tmp_path: Path, typed: str, code: int) -> None:
    """A key whose password stands in a CI job's arguments; a release delivered though it was wrong."""
    public, secret, out = tmp_path / "a.pub", tmp_path / "a.key", tmp_path / "out"
    words = ["minisign", "-G", "-p", str(public), "-s", str(secret)]
    subprocess.run(words, input=b"right\nright\n", check=True, capture_output=True)
    command = [sys.executable, "-c", MAIN, "create", "--name", "v1", "--to", str(out), "--sign", str(secret)]
    done = subprocess.run(command, cwd=clone.path, input=typed, capture_output=True, text=True, check=False)
    assert (done.returncode, out.exists(), done.stdout.startswith("RELEASE_URL=")) == (code, not code, not code)
    assert ("minisign has not signed the release" in done.stderr) == bool(code)


@pytest.mark.parametrize(("path", "key", "says"), [("", "none", "--sign .*none is no file"), ("x", "", "minisign is")])
def test_what_is_missing_is_said(
    clone: Clone, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, key: str, says: str
) -> None:
    """A traceback on a build server that has no minisign."""
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "git").symlink_to(shutil.which("git") or "")
    if path:
        monkeypatch.setenv("PATH", str(bare))
    with pytest.raises(ReleaseError, match=says) as caught:
        clone.create(tmp_path / "out", name="v1", sign=str(tmp_path / key if key else signer.secret))
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_verify_asks_for_the_keys_of_the_ami(file: Path, signer: Signer, stranger: Signer) -> None:
    """A release that passes in CI, and that no instance of the fleet takes."""
    url = file.as_uri()
    code, _, log = verify(url, "--key", signer.public)
    assert (code, "is not signed" in log) == (12, True)
    signer.sign(file, "-H", "-t", "release:v1\tby me")
    code, out, log = verify(url, "--key", f"{stranger.public},{signer.public}")
    assert (code, f"signed      by {signer.key.id}: release:v1 by me\n" in out) == (0, True), log
    code, _, log = verify(url, "--key", stranger.public)
    assert (code, "none of those that may sign" in log) == (12, True)
    code, _, log = verify("docker://registry.example/web:v1", "--key", signer.public)
    assert (code, "signed releases only" in log) == (12, True)
    code, _, log = verify(url, "--key", "RWQ")
    assert (code, "public keys of minisign's" in log) == (2, True)
    assert verified(url, within()).error == ""  # which keys the AMI has, adf-roll can't know
