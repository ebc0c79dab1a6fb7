"""Addresses of streams, which are shown without what is secret in them."""

import io
import logging

import pytest

from gmn_camera.address import is_stream, redact, redact_text
from gmn_camera.log import CameraFormatter
from gmn_camera.settings import read_config, read_options
from gmn_client import InvalidInput
from tests.forked import run_gmn


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://root:p%40ss@camera.example:554/live", "rtsp://…@camera.example:554/live"),
        ("rtsp://root:p@ss@camera.example/live", "rtsp://…@camera.example/live"),
        ("rtsp://root:pa/ss@camera.example/live", "rtsp://…@camera.example/live"),
        ("rtsp://root:pass@[2001:db8::7]:554/live", "rtsp://…@[2001:db8::7]:554/live"),
        (" rtsp://root:pass@camera.example/live", "rtsp://…@camera.example/live"),
        ("rtsp+tls://root:pass@camera.example/live", "rtsp+tls://…@camera.example/live"),
        (
            "ffmpeg:rtsp://root:pass@camera.example/1#video=h264",
            "ffmpeg:rtsp://…@camera.example/1#…",
        ),
        ("rtsp:/root:pass@camera.example/live", "…@camera.example/live"),
        ("root:pass@camera.example/live", "…@camera.example/live"),
        ("http://camera.example/video?user=root&password=x", "http://camera.example/video?…"),
        ("rtsp://camera.example/user=root_password=x_channel=1.sdp", "rtsp://camera.example/…"),
        ("rtsp://camera.example/0/root:x/main", "rtsp://camera.example/0/…"),
        ("rtsp://camera.example/live", "rtsp://camera.example/live"),
        ("rtsp://camera.example:8554", "rtsp://camera.example:8554"),
        ("clip?.mp4", "clip?.mp4"),
        ("/videos/day=1/12:30.mp4", "/videos/day=1/12:30.mp4"),
    ],
)
def test_an_address_is_shown_without_user_and_password(address, shown):
    assert redact(address) == shown
    assert redact(shown) == shown


SECRET = "s3cret"
ODD_ADDRESSES = [
    f"rtsp://root:a?{SECRET}@camera.example/live",
    f"rtsp://root:a#{SECRET}@camera.example/live",
    f"rtsp://root:a {SECRET}@camera.example/live",
    f"rtsp://root:a\t{SECRET}@camera.example/live",
    f"rtsp://root:a\n{SECRET}@camera.example/live",
    f"rtsp://root:a'{SECRET}\"@camera.example/live",
    f"rtsp://root:a\\{SECRET}@camera.example/live",
    f"rtsp://root:a;{SECRET}=&@camera.example/live",
    f"rtsp://root:ü{SECRET}@camera.example/live",
    f"rtsp:\\\\root:{SECRET}@camera.example\\live",
    f"rtsp:root:{SECRET}@camera.example/live",
    f"rtsp://camera.example/live?password=a@{SECRET}",
    f"rtsp://root:a@camera.example/live?password=a@{SECRET}",
    f"rtsp://camera.example/live;user=root;pwd={SECRET}",
    f"rtsp://camera.example/live&pwd={SECRET}",
    f"rtsp://root:{SECRET}",
    f"rtsp://root:{SECRET}%40camera.example/live",
    f"rtsp%3A%2F%2Froot%3A{SECRET}%40camera.example",
    f"rtsp：//root:{SECRET}＠camera.example",
    f"\ufeffrtsp://root:{SECRET}@camera.example",
    f"camera.example/live?usr=root&pwd={SECRET}",
    f"exec:ffmpeg -i rtsp://root:{SECRET}@camera.example -f mpegts",
]


@pytest.mark.parametrize("address", ODD_ADDRESSES)
def test_an_odd_address_shows_no_password(address):
    assert SECRET not in redact(address)


@pytest.mark.parametrize("address", ODD_ADDRESSES)
def test_an_odd_address_shows_no_password_in_the_text_of_an_error(address):
    assert SECRET not in redact_text(str(OSError(5, "Input/output error", address)))


def test_a_text_keeps_everything_but_the_passwords():
    assert redact_text(
        "gate: 'rtsp://u:p@one.example/a' failed (Input/output error: 12:30); see "
        "http://two.example:8000/b?c=d."
    ) == (
        "gate: 'rtsp://…@one.example/a' failed (Input/output error: 12:30); see "
        "http://two.example:8000/b?…."
    )
    two = redact_text(f"rtsp://u:{SECRET}@one.example and rtsp://v:{SECRET}@two.example")
    assert SECRET not in two


def test_the_log_shows_no_password_of_an_error_that_nobody_expected():
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(CameraFormatter("gate"))
    logger = logging.Logger("camera")
    logger.addHandler(handler)
    try:
        raise OSError(5, "Input/output error", f"rtsp://root:{SECRET}@camera.example")
    except OSError:
        logger.exception("the camera failed")
    assert "gate: the camera failed" in written.getvalue()
    assert "rtsp://…@camera.example" in written.getvalue()
    assert SECRET not in written.getvalue()


@pytest.mark.parametrize(
    "address",
    [
        "ftp://root:s3cret@camera.example",
        "rtsp+tls://root:s3cret@camera.example",
        "ffmpeg:rtsp://root:s3cret@camera.example",
        "rtsp:/root:s3cret@camera.example",
        "file:///clip.mp4",
    ],
)
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(InvalidInput, match=r"cannot be read; .* begins with rtsp://") as refused:
        is_stream(address)
    assert SECRET not in str(refused.value)


def test_addresses_and_files_are_told_apart():
    assert is_stream("RTSP://camera.example/1")
    assert not is_stream("a.mp4")
    assert not is_stream("C:/a.mp4")


def test_spaces_around_an_address_are_left_out():
    settings = read_options({"camera": "c", "source": "\trtsp://camera.example/1 \n"})
    assert settings.source == "rtsp://camera.example/1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["try", f"root:{SECRET}@camera.example/live"],
        ["try", f"rtsp:/root:{SECRET}@camera.example/live"],
        ["run", f"root:{SECRET}@camera.example/live", "--camera", "gate"],
        ["run", f"root:{SECRET}@{'a' * 300}", "--camera", "gate"],
        ["run", "a.mp4", f"rtsp://root:{SECRET}@camera.example", "--camera", "gate"],
        ["run", "a.mp4", "--camera", "gate", "--hours", f"rtsp://root:{SECRET}@camera.example"],
        ["run", "a.mp4", "--camera", "gate", "--fps", f"rtsp://root:{SECRET}@camera.example"],
        ["run", "--config", f"rtsp://root:{SECRET}@camera.example"],
        [f"rtsp://root:{SECRET}@camera.example"],
    ],
)
@pytest.mark.parametrize("more", [[], ["--debug"]])
def test_no_message_of_a_command_shows_a_password(arguments, more, tmp_path):
    ran = run_gmn("camera", *arguments, *more, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr
    assert SECRET not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "text",
    [
        f'[camera.gate]\nsource = ["rtsp://root:{SECRET}@camera.example"]\n',
        f'[camera."rtsp://root:{SECRET}@camera.example"]\nspeed = 1\n',
        f'[camera]\n"rtsp://root:{SECRET}@camera.example" = 1\n',
        f'[camera.gate]\nsource = "a.mp4"\nzone = ["rtsp://root:{SECRET}@camera.example"]\n',
        f'[camera.gate]\nsource = "rtsp://root:{SECRET}@camera.example\n',
    ],
)
def test_no_message_about_a_file_of_settings_shows_a_password(text, tmp_path):
    file = tmp_path / "cameras.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_config(file)
    assert SECRET not in str(refused.value)
