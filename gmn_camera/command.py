"""The commands of `gmn camera`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, BadParameter, Exit, Option, Typer, TyperException, echo
from typer.core import TyperGroup

from gmn_camera.address import redact, redact_text
from gmn_camera.settings import MOST_TRIED_SECONDS
from gmn_client.errors import GmnError, InvalidInput


class CameraCommands(TyperGroup):
    """A group of commands whose error messages show no passwords of addresses."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TyperException as error:
            error.message = redact_text(error.message)
            _leave_out_cause(error)
            raise
        except GmnError as error:
            parts = [redact_text(part) if isinstance(part, str) else part for part in error.args]
            error.args = tuple(parts)
            _leave_out_cause(error)
            raise


camera = Typer(
    cls=CameraCommands,
    help="Watches cameras: finds the people and sends their crops to the service.\n\n"
    "Example: gmn camera try clip.mp4",
    no_args_is_help=True,
    # Without a callback, Typer would turn a group of one command into that command.
    callback=lambda: None,
)
DEFAULT_URL = "http://127.0.0.1:8000"
PACKAGES = ("av", "numpy", "openvino", "PIL")

SourceArgument = Annotated[
    str, Argument(metavar="SOURCE", help="A video file, or the address of a stream.")
]
FpsOption = Annotated[
    float | None, Option(help="Frames a second that are looked at; 10 unless given.")
]
HeightOption = Annotated[
    int | None, Option(help="Pixels; lower people give no crops. 96 unless given.")
]
IouOption = Annotated[
    float | None, Option(help="Overlap by which people are followed; 0.2 unless given.")
]
ZoneOption = Annotated[
    list[str] | None,
    Option(
        metavar="X,Y X,Y X,Y…",
        help="Only people whose feet are in this polygon, in shares of the frame; repeatable.",
    ),
]
DetectorOption = Annotated[
    Path | None,
    Option(
        help="Your own network: an SSD of the Open Model Zoo, or YOLOX, YOLOv8 or RT-DETR as ONNX."
    ),
]
ThreadsOption = Annotated[int | None, Option(help="Threads of the network; 1 unless given.")]
UrlOption = Annotated[str, Option(envvar="GMN_URL", help="Where the service is.")]
ApiKeyFileOption = Annotated[
    Path | None, Option(metavar="FILE", help="A file with the key, in place of --api-key.")
]


@camera.command("try")
def try_camera(
    source: SourceArgument,
    out: Annotated[
        Path, Option(help="The picture to write: the frame with the most people.")
    ] = Path("gmn-camera.jpg"),
    seconds: Annotated[
        float | None,
        Option(
            min=1,
            max=MOST_TRIED_SECONDS,
            help="Seconds to look at; otherwise 60 of a stream, and at most 600 of a file.",
        ),
    ] = None,
    fps: FpsOption = None,
    min_height: HeightOption = None,
    min_iou: IouOption = None,
    zone: ZoneOption = None,
    detector: DetectorOption = None,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tries a camera without a service, and advises what to change.

    It writes one picture, the frame with the most people, and prints the people with their heights,
    tracks and crops, and the processor time.

    Example: gmn camera try clip.mp4

    Example: gmn camera try rtsp://USER:PASSWORD@camera.example/stream --seconds 30
    """
    require_packages("camera", PACKAGES)
    from gmn_camera.settings import read_options
    from gmn_camera.try_source import describe, try_source

    settings = read_options(
        _given(
            camera="camera",
            source=source,
            fps=fps,
            min_height=min_height,
            min_iou=min_iou,
            zone=zone,
            detector=detector,
            threads=threads,
        )
    )
    tried = try_source(settings, seconds, out)
    if as_json:
        echo(tried.model_dump_json(indent=2))
    else:
        for line in describe(tried):
            echo(line)


@camera.command("run")
def run_camera(
    source: Annotated[
        str | None, Argument(metavar="SOURCE", help="A video file, or the address of a stream.")
    ] = None,
    name: Annotated[
        str | None, Option("--camera", help="The camera's name in the service.")
    ] = None,
    config: Annotated[
        Path | None, Option(help="A TOML file with a table [camera.NAME] for each camera.")
    ] = None,
    enroll: Annotated[
        str | None,
        Option(
            metavar="GALLERY",
            help="Also store the crops there, without a name; the gallery must have a retention.",
        ),
    ] = None,
    fps: FpsOption = None,
    min_height: HeightOption = None,
    min_iou: IouOption = None,
    zone: ZoneOption = None,
    hours: Annotated[
        str | None, Option(help="Only at this time of day, by the time zone of TZ: 22:00-06:00.")
    ] = None,
    started: Annotated[
        str | None,
        Option(help="Time of a file's first frame, with zone; otherwise the file ends now."),
    ] = None,
    live: Annotated[
        bool, Option("--live", help="Play a file in real time, as if it were a stream.")
    ] = False,
    queue: Annotated[
        int | None, Option(help="Crops of a stream that wait at most; 256 unless given.")
    ] = None,
    detector: DetectorOption = None,
    threads: ThreadsOption = None,
    metrics: Annotated[
        str | None,
        Option(metavar="PORT", help="Serve Prometheus metrics at this port, or at HOST:PORT."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: Annotated[
        str | None,
        Option(envvar="GMN_API_KEY", help="A key with the scope sight; enroll too for --enroll."),
    ] = None,
    api_key_file: ApiKeyFileOption = None,
) -> None:
    """Sends the crops of people to the service, which compares them with the watch lists.

    Nothing is stored, here or in the service, unless --enroll names a gallery. A stream is followed
    until SIGTERM or Ctrl-C; a file ends. The exit status is 2 if a setting or the key is wrong.

    Example: gmn camera run rtsp://USER:PASSWORD@camera.example/stream --camera gate

    Example: gmn camera run clip.mp4 --camera phone --enroll sightings

    Example: gmn camera run --config cameras.toml --metrics 9100
    """
    require_packages("camera", (*PACKAGES, "prometheus_client"))
    from gmn_camera.address import is_stream
    from gmn_camera.processes import watch_cameras
    from gmn_camera.service import read_service
    from gmn_camera.settings import read_config, read_options

    options = _given(
        source=source,
        camera=name,
        enroll=enroll,
        fps=fps,
        min_height=min_height,
        min_iou=min_iou,
        zone=zone,
        hours=hours,
        started=started,
        live=live or None,
        queue=queue,
        detector=detector,
        threads=threads,
    )
    if config is not None:
        if options:
            raise BadParameter(
                f"{', '.join(options)}: write it into {config}, which has the settings of all "
                "cameras"
            )
        cameras = read_config(config)
    elif source is None or name is None:
        raise BadParameter("name a SOURCE and its --camera, or a file with --config")
    else:
        cameras = [read_options(options)]
    for settings in cameras:
        if not is_stream(settings.source) and not _is_file(settings.source):
            name = redact(settings.source)
            raise InvalidInput(f"{name}: there is no such file; name a video file")
    raise Exit(watch_cameras(cameras, read_service(url, api_key, api_key_file), metrics))


BrokerOption = Annotated[str, Option(metavar="HOST[:PORT]", help="Where the MQTT broker is.")]
UsernameOption = Annotated[str | None, Option(help="Who connects to the broker.")]
PasswordOption = Annotated[
    str | None, Option(envvar="GMN_CAMERA_MQTT_PASSWORD", help="With --username.")
]
PasswordFileOption = Annotated[
    Path | None, Option(metavar="FILE", help="A file with the password, in place of --password.")
]
TlsOption = Annotated[bool, Option("--tls", help="Encrypt the connection to the broker.")]


@camera.command("frigate")
def frigate(
    setup: Annotated[
        bool,
        Option("--setup", help="Test everything, make the key, and print the unit that runs it."),
    ] = False,
    since: Annotated[
        str | None,
        Option(metavar="7d", help="Enroll the people of the events of this time, then end."),
    ] = None,
    enroll: Annotated[
        str | None,
        Option(metavar="GALLERY", help="With --since; the gallery must have a retention."),
    ] = None,
    frigate_url: Annotated[
        str | None,
        Option(
            "--frigate",
            metavar="URL",
            help="Frigate's HTTP API; http://127.0.0.1:5000 unless given.",
        ),
    ] = None,
    frigate_user: Annotated[
        str | None,
        Option(
            help="Frigate's user, with the password in GMN_CAMERA_FRIGATE_PASSWORD; the terminal "
            "is asked for it otherwise."
        ),
    ] = None,
    frigate_password_file: Annotated[
        Path | None, Option(metavar="FILE", help="A file with the password of --frigate-user.")
    ] = None,
    frigate_certificate: Annotated[
        Path | None,
        Option(metavar="FILE", help="Frigate's own certificate, if nobody known has signed it."),
    ] = None,
    broker: Annotated[
        str | None,
        Option(metavar="HOST[:PORT]", help="The MQTT broker; 127.0.0.1 unless given."),
    ] = None,
    username: UsernameOption = None,
    password: PasswordOption = None,
    password_file: PasswordFileOption = None,
    tls: TlsOption = False,
    prefix: Annotated[
        str | None,
        Option(help="The topic_prefix in Frigate's configuration; frigate unless given."),
    ] = None,
    min_height: Annotated[
        int, Option(min=32, max=2000, help="Pixels; lower people are not sent.")
    ] = 96,
    url: Annotated[
        str | None,
        Option(envvar="GMN_URL", help=f"Where the service is; {DEFAULT_URL} unless given."),
    ] = None,
    api_key: Annotated[
        str | None,
        Option(
            envvar="GMN_API_KEY",
            help="A key with the scopes sight and query; enroll and query with --since, admin with "
            "--setup.",
        ),
    ] = None,
    api_key_file: ApiKeyFileOption = None,
    secrets: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="With --setup: write the key and the passwords into this new file, for you alone.",
        ),
    ] = None,
    unit: Annotated[
        Literal["systemd", "compose"] | None,
        Option(help="With --setup: what starts it; systemd unless given."),
    ] = None,
) -> None:
    """Compares the people whom Frigate sees with the watch lists, and names them in Frigate.

    Frigate's own tracker and snapshots are used. Who is on a list becomes the event's sub label.
    With --setup, the terminal is asked for what no option answers.

    Example: gmn camera frigate --setup

    Example: gmn camera frigate --frigate http://frigate.example:5000 --broker mqtt.example

    Example: gmn camera frigate --since 7d --enroll sightings
    """
    from gmn_camera.log import configure_log

    configure_log("frigate")
    if setup and since is not None:
        raise BadParameter("--setup and --since: give one at a time")
    if (enroll is None) != (since is None):
        raise BadParameter("--since and --enroll GALLERY: give both, or neither")
    if not setup and (secrets is not None or unit is not None):
        raise BadParameter("--secrets and --unit: give --setup, too")
    if setup:
        require_packages("mqtt", ["paho"])
        from gmn_camera.frigate_setup import Setup, SetupOptions

        options = SetupOptions(
            frigate=frigate_url,
            frigate_user=frigate_user,
            frigate_password_file=frigate_password_file,
            frigate_certificate=frigate_certificate,
            broker=broker,
            username=username,
            password=password,
            password_file=password_file,
            tls=tls,
            prefix=prefix,
            min_height=min_height,
            url=url,
            api_key=api_key,
            api_key_file=api_key_file,
            secrets=secrets,
            unit=unit,
        )
        raise Exit(Setup(options, asks=sys.stdin.isatty()).run())
    from gmn_camera.frigate_api import FRIGATE_URL, open_frigate, read_frigate_user
    from gmn_camera.service import read_service

    user = read_frigate_user(frigate_user, frigate_password_file)
    service = read_service(url or DEFAULT_URL, api_key, api_key_file)
    with closing(open_frigate(frigate_url or FRIGATE_URL, user, frigate_certificate)) as opened:
        if since is not None and enroll is not None:
            require_packages("mqtt", ["PIL"])
            from gmn_camera.frigate_history import enroll_history

            raise Exit(enroll_history(service, opened, enroll, since, min_height))
        require_packages("mqtt", ["paho"])
        from gmn_camera.broker import read_broker, read_topic
        from gmn_camera.frigate import bridge_frigate

        topic = read_topic("--prefix", prefix or "frigate")
        at = read_broker(broker or "127.0.0.1", username, password, password_file, tls=tls)
        with service.connect() as client:
            bridge_frigate(client, opened, at, topic, min_height)


@camera.command("mqtt")
def mqtt(
    broker: BrokerOption = "127.0.0.1",
    username: UsernameOption = None,
    password: PasswordOption = None,
    password_file: PasswordFileOption = None,
    tls: TlsOption = False,
    discovery: Annotated[
        str, Option(help="The topic below which Home Assistant looks for entities.")
    ] = "homeassistant",
    topic: Annotated[
        str,
        Option(help="The topic below which all others are; one for each service at a broker."),
    ] = "gmn",
    switch: Annotated[
        list[str] | None,
        Option(
            metavar="GALLERY",
            help="A watch list that Home Assistant may pause and resume; repeatable.",
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: Annotated[
        str | None,
        Option(envvar="GMN_API_KEY", help="A key with the scope query; admin for --switch."),
    ] = None,
    api_key_file: ApiKeyFileOption = None,
) -> None:
    """Publishes alerts and cameras over MQTT, where Home Assistant finds them by itself.

    Each camera is a device with an event for alerts, the picture of the last one, and whether the
    camera is heard.

    Example: gmn camera mqtt --broker mqtt.example

    Example: gmn camera mqtt --broker mqtt.example --switch entrance
    """
    require_packages("mqtt", ["paho"])
    from gmn_camera.broker import read_broker, read_topic
    from gmn_camera.home_assistant import bridge_home_assistant
    from gmn_camera.log import configure_log
    from gmn_camera.service import read_service

    configure_log("mqtt")
    discovery = read_topic("--discovery", discovery)
    topic = read_topic("--topic", topic)
    at = read_broker(broker, username, password, password_file, tls=tls)
    service = read_service(url, api_key, api_key_file)
    with service.connect() as client:
        bridge_home_assistant(service, client, at, discovery, topic, switch or ())


def _leave_out_cause(error: Exception) -> None:
    """Remove a cause that repeats a password, which --debug would show in the traceback."""
    cause = str(error.__cause__)
    if cause != redact_text(cause):
        error.__cause__ = None


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except OSError:
        # The name is too long.
        return False


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def require_packages(extra: str, packages: Sequence[str]) -> None:
    """Require the packages of an extra.

    Raises:
        InvalidInput: one of them is not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InvalidInput(
            f"gmn camera: the package {missing[0]} is not installed; "
            f"pip install 'gmn-reid[{extra}]'"
        )
