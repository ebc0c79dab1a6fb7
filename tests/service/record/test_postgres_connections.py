"""Connections to PostgreSQL: what sessions set, which host is asked, poolers, stopped processes."""

import contextlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psycopg
import pytest

import gmn
from model.problems import InputProblem
from service.errors import RecordUnavailable
from service.opening import open_folder
from service.ops.threads import MonitoredThreadPool
from service.postgres import connection as postgres_connection
from service.postgres.connection import PostgresConnection, examine_server
from tests.pooler import pooler
from tests.service.gallery.new_crops import enroll, listed, listed_ids, new_crop, new_gallery
from tests.waiting import eventually

pytestmark = pytest.mark.postgres_alone

# Each of them changes what a statement means, how a value comes back, or what a commit waits for.
SETTINGS_OF_A_ROLE = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "client_min_messages": "error",
    "datestyle": "SQL, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "exit_on_error": "on",
    "extra_float_digits": "-3",
    "idle_session_timeout": "200ms",
    "intervalstyle": "sql_standard",
    "lock_timeout": "1ms",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "statement_timeout": "1s",
    "synchronous_commit": "local",
    "timezone": "Asia/Kathmandu",
    "transform_null_equals": "on",
}


@pytest.fixture
def role(postgres_server):
    """Yield a function that gives a role settings, and returns the URL of its own schema."""
    names = []
    with psycopg.connect(postgres_server._url(), autocommit=True) as connection:

        def give(name, settings, **parameters):
            names.append(name)
            url = postgres_server.url(name)
            connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
            for setting, value in settings.items():
                connection.execute(f"ALTER ROLE {name} SET {setting} = '{value}'")
            more = "".join(f"&{key}={quote(value)}" for key, value in parameters.items())
            return f"{url.replace('user=gmn', f'user={name}')}{more}"

        yield give
        for name in names:
            connection.execute(f"DROP OWNED BY {name} CASCADE")
            connection.execute(f"DROP ROLE {name}")


def _two_machines(tmp_path, url):
    return [contextlib.closing(open_folder(tmp_path / name, url)) for name in ("one", "two")]


def _show(record, name):
    return record.database.fetch_tuples(f"SHOW {name}")[0][0]


@pytest.mark.promise("settings-of-others")
def test_what_a_role_sets_changes_no_answer_and_no_promise(role, tmp_path):
    one, two = _two_machines(tmp_path, role("mistaken", SETTINGS_OF_A_ROLE))
    with one as first, two as second, ThreadPoolExecutor(8) as threads:
        gallery = new_gallery(first)
        number = 0.1234567890123456
        crops = [new_crop(each, f"张伟 {each} \\'") for each in range(24)]
        crops.append(new_crop(24, metadata={"number": number}))
        machines = [(first, second)[each % 2] for each in range(len(crops))]
        landed = list(
            threads.map(lambda machine, crop: enroll(machine, gallery, crop), machines, crops)
        )
        assert all(len(crop_ids) == 1 for crop_ids in landed)
        found = {crop.crop_id: crop for crop in listed(second, gallery)}
        assert [found[crop_ids[0]].identity for crop_ids in landed[:-1]] == [
            crop.record.identity for crop in crops[:-1]
        ]
        assert found[landed[-1][0]].metadata == {"number": number}
        assert found[landed[-1][0]].captured_at == crops[-1].record.captured_at
        assert _show(first, "synchronous_commit") == "on"
        assert first.database.fetch_tuples("SELECT 0.1::float8 + 0.2::float8") == [
            (0.1 + 0.2,),
        ]
        assert _show(first, "idle_session_timeout") == "0"
        assert _show(first, "statement_timeout") == "1min"


@pytest.mark.promise("settings-of-others")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGCLIENTENCODING", "LATIN1"),
        ("PGCLIENTENCODING", "no-such"),
        ("PGDATESTYLE", "German"),
        ("PGTZ", "Asia/Kathmandu"),
        ("PGOPTIONS", "-c default_transaction_isolation=serializable -c extra_float_digits=-3"),
    ],
)
def test_what_the_environment_sets_changes_no_answer(
    postgres_server, tmp_path, monkeypatch, variable, value
):
    url = postgres_server.url(f"environment_{variable}_{len(value)}".lower())
    monkeypatch.setenv(variable, value)
    with contextlib.closing(open_folder(tmp_path, url)) as record:
        gallery = new_gallery(record)
        enroll(record, gallery, new_crop(1, "张伟"))
        assert [crop.identity for crop in listed(record, gallery)] == ["张伟"]
        assert _show(record, "default_transaction_isolation") == "read committed"


def test_the_environment_may_name_the_server(postgres_server, tmp_path, monkeypatch):
    postgres_server.url("of_variables")
    for name, value in {
        "PGHOST": str(postgres_server.folder),
        "PGUSER": "gmn",
        "PGDATABASE": "postgres",
        "PGOPTIONS": "-c search_path=of_variables",
    }.items():
        monkeypatch.setenv(name, value)
    with (
        contextlib.closing(open_folder(tmp_path, "postgresql://")) as record,
        ThreadPoolExecutor(2) as threads,
    ):
        gallery = new_gallery(record)
        (crop_id,) = threads.submit(enroll, record, gallery, new_crop(1)).result()
        assert listed_ids(record, gallery) == [crop_id]
        assert _show(record, "search_path") == "of_variables"


@pytest.mark.promise("settings-of-others")
@pytest.mark.parametrize("level", ["local", "remote_write"])
def test_a_commit_waits_for_the_standby_whatever_a_role_sets(role, tmp_path, level):
    with contextlib.closing(
        open_folder(tmp_path, role("hasty", {"synchronous_commit": level}))
    ) as own:
        assert _show(own, "synchronous_commit") == "on"


def test_a_role_may_wait_until_a_standby_shows_a_commit(role, tmp_path):
    url = role("patient", {"synchronous_commit": "remote_apply"})
    with contextlib.closing(open_folder(tmp_path, url)) as own:
        assert _show(own, "synchronous_commit") == "remote_apply"


@pytest.mark.promise("settings-of-others")
@pytest.mark.parametrize(
    ("setting", "value", "parameters", "named"),
    [
        ("default_transaction_read_only", "on", {}, "RESET default_transaction_read_only"),
        (
            "default_transaction_read_only",
            "on",
            {"target_session_attrs": "any"},
            "RESET default_transaction_read_only",
        ),
        ("session_replication_role", "replica", {}, "RESET session_replication_role"),
        ("synchronous_commit", "off", {}, "synchronous_commit off"),
    ],
)
def test_a_setting_with_which_no_record_is_kept_is_named_with_its_remedy(
    role, tmp_path, setting, value, parameters, named
):
    url = role("refused", {setting: value}, **parameters)
    with pytest.raises((InputProblem, RecordUnavailable), match=named):
        open_folder(tmp_path, url)
    with pytest.raises(InputProblem, match=named):
        list(examine_server(url))


def test_a_record_in_a_later_schema_of_the_search_path_is_refused(postgres_server, tmp_path):
    url = postgres_server.url("whole_record")
    open_folder(tmp_path / "one", url).close()
    postgres_server.url("first_in_path")
    other = url.replace("whole_record", "first_in_path%2Cwhole_record")
    with pytest.raises(InputProblem, match="search_path%3Dwhole_record"):
        open_folder(tmp_path / "two", other)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("-c search_path", "options: write each setting like"),
        ("-c no_such_setting=1", "no_such_setting"),
        ("-c work_mem=much", "work_mem"),
        ("-c shared_buffers=1GB", "shared_buffers"),
    ],
)
def test_options_that_cannot_be_set_are_named(postgres_server, tmp_path, options, named):
    url = f"postgresql:///postgres?host={quote(str(postgres_server.folder), safe='')}&user=gmn"
    with pytest.raises(InputProblem, match=named):
        open_folder(tmp_path, f"{url}&options={quote(options)}")


def _session_of(url, process):
    with psycopg.connect(url, autocommit=True) as connection:
        statement = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
        return connection.execute(statement, (process,)).fetchone()[0]


def test_a_session_is_called_gmn_unless_the_url_names_it(postgres_server, tmp_path, monkeypatch):
    url = postgres_server.url("named")

    def named(url):
        with contextlib.closing(open_folder(tmp_path, url)) as record:
            ((process,),) = record.database.fetch_tuples("SELECT pg_backend_pid()")
            return _session_of(postgres_server._url(), process)

    assert named(url) == "gmn"
    assert named(f"{url}&application_name=desk") == "desk"
    monkeypatch.setenv("PGAPPNAME", "of the environment")
    assert named(url) == "of the environment"


def test_the_url_says_which_server_is_wanted(postgres_server):
    url = f"{postgres_server.url('wanted')}&target_session_attrs=standby"
    with pytest.raises(InputProblem, match=r"GMN_DATABASE_URL: .*standby"):
        list(examine_server(url))


def test_a_host_that_is_silent_is_asked_once_while_another_one_answers(postgres_server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)

        def count_attempts():
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    silent.accept()[0].close()
                    count += 1
            return count

        folder = quote(str(postgres_server.folder), safe="")
        url = postgres_server.url("second").replace(f"host={folder}", f"host=127.0.0.1,{folder}")
        url = f"{url}&port={silent.getsockname()[1]},5432&connect_timeout=2"
        with (
            contextlib.closing(open_folder(tmp_path, url)) as record,
            ThreadPoolExecutor(4) as threads,
        ):
            assert count_attempts() > 0
            gallery = new_gallery(record)
            for each in range(8):
                threads.submit(enroll, record, gallery, new_crop(each)).result()
            assert len(listed_ids(record, gallery)) == 8
            assert count_attempts() == 0


def test_through_a_pooler_that_pools_by_session_a_record_is_kept_in_its_schema(
    postgres_server, tmp_path
):
    with pooler(postgres_server, "pooled", pool_mode="session") as url:
        one, two = _two_machines(tmp_path, url)
        with one as first, two as second:
            gallery = new_gallery(first)
            (crop_id,) = enroll(first, gallery, new_crop(1, "张伟"))
            assert listed_ids(second, gallery) == [crop_id]
            assert _show(first, "lock_timeout") == "20s"
            assert _show(first, "search_path") == "pooled"
        assert "pools by session" in next(examine_server(url))[1]
    with contextlib.closing(open_folder(tmp_path / "one", postgres_server.url("pooled"))) as direct:
        assert listed_ids(direct, gallery) == [crop_id]


@pytest.mark.parametrize(
    "settings",
    [
        {"pool_mode": "transaction"},
        {"pool_mode": "transaction", "server_round_robin": 1},
        {"pool_mode": "transaction", "default_pool_size": 1},
        {"pool_mode": "statement"},
    ],
)
def test_a_pooler_that_shares_its_sessions_is_refused(postgres_server, tmp_path, settings):
    with pooler(postgres_server, "shared", **settings) as url:
        with pytest.raises(InputProblem, match="pool_mode=session"):
            open_folder(tmp_path, url)
        with pytest.raises(InputProblem, match="pool_mode=session"):
            list(examine_server(url))


def test_what_a_pooler_refuses_of_the_environment_is_named(postgres_server, tmp_path, monkeypatch):
    monkeypatch.setenv("PGGEQO", "off")
    with (
        pooler(postgres_server, "strict") as url,
        pytest.raises(RecordUnavailable, match=r"geqo.*ignore_startup_parameters"),
    ):
        open_folder(tmp_path, url)


@pytest.fixture
def short_times(monkeypatch):
    for name, seconds in {
        "SILENT_SECONDS": 0.2,
        "STATEMENT_SECONDS": 2,
        "ENDING_SECONDS": 1,
        "UNREAD_SECONDS": 1,
    }.items():
        monkeypatch.setattr(postgres_connection, name, seconds)


@contextlib.contextmanager
def _standing_still(record):
    """Keep the server's process of this thread's session from running."""
    ((process,),) = record.database.fetch_tuples("SELECT pg_backend_pid()")
    waits_for = f"SELECT wait_event FROM pg_stat_activity WHERE pid = {process}"
    with ThreadPoolExecutor(1) as another:
        # It answers a moment before it waits: stopped in between, it would count as at work.
        eventually(
            lambda: (
                another.submit(record.database.fetch_tuples, waits_for).result()
                == [("ClientRead",)]
            )
        )
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@pytest.mark.promise("stopped-backend")
def test_a_call_whose_process_of_the_server_stands_still_ends_and_others_go_on(
    short_times, record, gallery
):
    with ThreadPoolExecutor(1) as another:
        (first,) = another.submit(enroll, record, gallery, new_crop(1)).result()
        with _standing_still(record):
            with pytest.raises(RecordUnavailable, match="does not answer"):
                listed_ids(record, gallery)
            assert another.submit(listed_ids, record, gallery).result() == [first]
            # This thread has another session now.
            assert listed_ids(record, gallery) == [first]


@pytest.mark.promise("stopped-backend")
def test_a_process_that_reads_nothing_is_not_waited_for_as_one_that_works(
    short_times, record, gallery, monkeypatch
):
    monkeypatch.setattr(postgres_connection, "STATEMENT_SECONDS", 100_000)
    with _standing_still(record), pytest.raises(RecordUnavailable, match="does not answer"):
        listed_ids(record, gallery)


@pytest.mark.promise("stopped-backend")
def test_a_commit_whose_process_stands_still_is_looked_up(
    short_times, record, gallery, monkeypatch
):
    commit = PostgresConnection.commit
    waits_for = "SELECT wait_event FROM pg_stat_activity WHERE pid = ?"

    def stop_meanwhile(connection):
        stopping.undo()
        process = connection._server.process
        with ThreadPoolExecutor(1) as another:
            read = record.database.fetch_tuples
            # It would roll back if it could not answer a statement before COMMIT.
            eventually(
                lambda: another.submit(read, waits_for, (process,)).result() == [("ClientRead",)]
            )
        os.kill(process, signal.SIGSTOP)
        try:
            commit(connection)
        finally:
            os.kill(process, signal.SIGCONT)

    with monkeypatch.context() as stopping:
        stopping.setattr(PostgresConnection, "commit", stop_meanwhile)
        (crop_id,) = enroll(record, gallery, new_crop(1))
    assert listed_ids(record, gallery) == [crop_id]


@pytest.mark.promise("stopped-backend")
def test_a_wait_for_a_stopped_process_is_none_that_ends_the_service(short_times, record, gallery):
    pool = MonitoredThreadPool(1, "readers")

    def read():
        with _standing_still(record):
            return listed_ids(record, gallery)

    reading = pool.submit(read)
    eventually(lambda: pool.silent_seconds() == 0.0 and pool.waiting == 0 and reading.running())
    with pytest.raises(RecordUnavailable):
        reading.result()
    pool.shutdown()


def test_a_server_that_stands_still_behind_a_pooler_ends_the_call(
    short_times, postgres_server, tmp_path
):
    with (
        pooler(postgres_server, "behind") as url,
        contextlib.closing(open_folder(tmp_path, url)) as record,
    ):
        gallery = new_gallery(record)
        (crop_id,) = enroll(record, gallery, new_crop(1))
        with postgres_server.standing_still():
            for call in (listed_ids, lambda *place: enroll(*place, new_crop(2))):
                with pytest.raises(RecordUnavailable):
                    call(record, gallery)

        def is_back():
            with contextlib.suppress(RecordUnavailable):
                return listed_ids(record, gallery) == [crop_id]

        eventually(is_back)


# Forms that are copied from elsewhere, and characters that were not percent-encoded.
MALFORMED = [
    "postgresql+asyncpg://gmn:{}@127.0.0.1:9/gmn",
    "postgres+psycopg://gmn:{}@127.0.0.1:9/gmn",
    "POSTGRESQL://gmn:{}@127.0.0.1:9/gmn",
    "jdbc:postgresql://gmn:{}@127.0.0.1:9/gmn",
    " postgresql://gmn:{}@127.0.0.1:9/gmn",
    "postgresql:gmn:{}@127.0.0.1:9/gmn",
    "postgresql:/gmn:{}@127.0.0.1:9/gmn",
    "postgresql:///gmn:{}@127.0.0.1:9/gmn",
    "gmn:{}@127.0.0.1:9/gmn",
    "//gmn:{}@127.0.0.1:9/gmn",
    "postgresql://gmn:{}%@127.0.0.1:9/gmn",
    "postgresql://gmn:%zz{}@127.0.0.1:9/gmn",
    "postgresql://gmn:a@{}@127.0.0.1:9/gmn",
    "postgresql://gmn:a/{}@127.0.0.1:9/gmn",
    "postgresql://gmn:1/{}@127.0.0.1:9/gmn",
    "postgresql://gmn:{}/b@127.0.0.1:9/gmn",
    "postgresql://gmn:1/?{}@127.0.0.1:9/gmn",
    "postgresql://gmn:a {}@127.0.0.1:9/gmn",
    "postgresql://gmn:{}\n@127.0.0.1:9/gmn",
    "postgresql://gmn:{}",
    "postgresql://127.0.0.1:9/gmn?pasword={}",
    "postgresql://127.0.0.1:9/gmn?password=a%{}",
    "host=127.0.0.1 user=gmn password=a {}",
    "host=127.0.0.1 port={} user=gmn",
    "127.0.0.1 password={}",
]


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("form", MALFORMED)
def test_no_message_about_a_url_shows_its_password(form, tmp_path, caplog):
    url = form.format("hunter2")
    with pytest.raises(InputProblem, match="GMN_DATABASE_URL: ") as refused:
        list(examine_server(url))
    with pytest.raises((InputProblem, RecordUnavailable)) as not_opened:
        open_folder(tmp_path, url)
    for error in (refused.value, not_opened.value):
        shown = []
        while error is not None:
            shown.append(f"{error} {getattr(error, 'detail', '')}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        assert "hunter2" not in "".join(shown)
    assert "hunter2" not in caplog.text


@pytest.mark.promise("passwords-of-addresses")
def test_a_url_of_another_form_is_no_folder_of_a_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    open_folder(tmp_path / "data").close()
    url = "postgresql+asyncpg://gmn:hunter2@127.0.0.1:9/gmn"
    for source, into in (("data", url), (url, "postgresql://127.0.0.1:9/gmn")):
        assert gmn.run(["store", "copy", source, "--into", into]) == 2
        shown = capsys.readouterr()
        assert "hunter2" not in shown.out + shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
