import math
import os
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from animora_server.configuration import Option, describe, load_settings, options
from animora_server.errors import ConfigurationError
from animora_server.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "animora.toml"


def refused(environ: dict[str, str], file: Path | None = None) -> str:
    """The error message for a configuration."""
    with pytest.raises(ConfigurationError) as error:
        load_settings(environ, file)
    return str(error.value)


def test_without_any_configuration_the_defaults_apply():
    assert load_settings({"PATH": "/bin"}, None) == Settings()


def test_variables_override_the_file_and_the_file_overrides_the_defaults(file: Path):
    file.write_text('[grpc]\nport = 1\nhost = "localhost"\n[catalog]\nmax_block_age = 30\n')
    settings = load_settings({"ANIMORA_GRPC_PORT": "2", "ANIMORA_CACHE_TTL": "7.5"}, file)
    assert (settings.grpc.port, settings.grpc.host) == (2, "localhost")
    assert (settings.catalog.max_block_age, settings.cache.ttl) == (30, 7.5)
    assert settings.http == Settings().http


def test_the_process_own_environment_is_not_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANIMORA_GRPC_PORT", "2")
    monkeypatch.setenv("GRPC", "no JSON")
    assert load_settings({}, None) == Settings()


def test_each_number_and_switch_can_be_set_by_its_variable():
    for option in options():
        if isinstance(option.field.default, bool | int | float):
            smallest = next((limit.ge for limit in option.field.metadata if hasattr(limit, "ge")), 1)
            environ = {"ANIMORA_MODELS_STORE": "models", option.variable: str(int(smallest))}
            settings = load_settings(environ, None)
            assert getattr(getattr(settings, option.section), option.name) == smallest


def test_variables_are_converted_to_the_type_of_the_option():
    settings = load_settings(
        {
            "ANIMORA_GRPC_HOST": "0.0.0.0",
            "ANIMORA_GRPC_INSECURE": "true",
            "ANIMORA_CATALOG_DIRECTORY": "/var/cache/animora",
            "ANIMORA_DATABASE_URL": "postgresql:///animora",
        },
        None,
    )
    assert settings.grpc.insecure is True
    assert settings.catalog.directory == Path("/var/cache/animora")
    assert settings.database.url == SecretStr("postgresql:///animora")


@pytest.mark.parametrize("option", ["url", "listen_url"])
def test_an_unknown_option_of_a_connection_string_is_named_with_its_setting(file: Path, option: str):
    dsn = "postgresql://feed:hunter2@db/app?conect_timeout=3"
    file.write_text(f'[database]\n{option} = "{dsn}"\n')
    variable = f"ANIMORA_DATABASE_{option.upper()}"
    for environ, name in (({}, f"database.{option}"), ({variable: dsn}, variable)):
        with pytest.raises(ConfigurationError, match=rf"^{name}: unknown option 'conect_timeout'"):
            load_settings(environ, file)


def test_a_password_file_that_cannot_be_used_is_named_by_its_setting(file: Path, tmp_path: Path):
    file.write_text(f'[database]\nurl = "postgresql://feed@db/app"\npassword_file = "{tmp_path}/none"\n')
    why = f"cannot read {tmp_path}/none (No such file or directory)"
    assert refused({}, file) == f"database.password_file: {why}"
    variable = "ANIMORA_DATABASE_PASSWORD_FILE"
    assert refused({variable: f"{tmp_path}/none"}, file) == f"{variable}: {why}"


def test_a_connection_string_with_a_password_takes_no_password_file(file: Path, tmp_path: Path):
    (tmp_path / "password").write_text("hunter2\n")
    file.write_text(
        f'[database]\nurl = "postgresql://feed:hunter2@db"\npassword_file = "{tmp_path}/password"\n'
    )
    message = refused({}, file)
    assert message.startswith("database.url: has a password of its own")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("s3:/models", "write s3://BUCKET/PREFIX"),
        ("s3://", "write s3://BUCKET/PREFIX"),
        ("file://models", "write file:///FOLDER"),
        ("ftp://host/models", "ftp: is not supported, only a folder"),
        ("s3://[bucket/models", "Invalid"),
    ],
)
def test_a_store_that_cannot_be_opened_is_named_with_its_setting(file: Path, store: str, why: str):
    file.write_text(f'[models]\nstore = "{store}"\n')
    for environ, name in (({}, "models.store"), ({"ANIMORA_MODELS_STORE": store}, "ANIMORA_MODELS_STORE")):
        assert refused(environ, file).startswith(f"{name}: {why}")


def test_an_empty_variable_is_not_set(file: Path):
    file.write_text('[grpc]\ntls_certificate = "c.pem"\ntls_key = "k.pem"\n')
    settings = load_settings({"ANIMORA_GRPC_TLS_KEY": "", "ANIMORA_GRPC_PORT": ""}, file)
    assert (settings.grpc.tls_key, settings.grpc.port) == (Path("k.pem"), 50051)


def test_the_file_and_the_clients_variables_are_no_options():
    environ = {"ANIMORA_CONFIG": "animora.toml", "ANIMORA_TARGET": "localhost:50051", "ANIMORA_TOKEN": "t"}
    environ |= {"ANIMORA_TOKEN_FILE": "t"}
    environ |= {f"ANIMORA_TLS_{name}": "x" for name in ("ROOT", "CERTIFICATE", "KEY", "SERVER_NAME")}
    assert load_settings(environ, None) == Settings()


def test_service_link_variables_of_kubernetes_are_ignored():
    environ = {
        "ANIMORA_SERVICE_HOST": "10.0.0.1",
        "ANIMORA_SERVICE_PORT": "50051",
        "ANIMORA_SERVICE_PORT_GRPC": "50051",
        "ANIMORA_PORT": "tcp://10.0.0.1:50051",
        "ANIMORA_SERVER_PORT": "tcp://10.0.0.1:50051",
        "ANIMORA_SERVER_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings(environ, None) == Settings()


def test_misspelt_variables_are_refused_with_a_suggestion():
    names = ("ANIMORA_GRPC_PROT", "ANIMORA_CATALOG_MAX_BLOK_AGE", "ANIMORA_PORT", "ANIMORA_FOO_BAR")
    lines = dict(line.split(": ", 1) for line in refused(dict.fromkeys(names, "1"), None).splitlines())
    assert lines["ANIMORA_GRPC_PROT"] == "no such option; did you mean ANIMORA_GRPC_PORT?"
    assert lines["ANIMORA_CATALOG_MAX_BLOK_AGE"].endswith("did you mean ANIMORA_CATALOG_MAX_BLOCK_AGE?")
    assert lines["ANIMORA_PORT"].startswith("no such option")
    assert lines["ANIMORA_FOO_BAR"] == "no such option"  # none is similar


def test_a_whole_section_in_one_variable_is_refused():
    assert "ANIMORA_GRPC: no such option" in refused({"ANIMORA_GRPC": '{"port": 1}'})


def test_unknown_keys_and_tables_of_the_file_are_refused(file: Path):
    file.write_text("[grpc]\nprot = 1\n[zebra]\nport = 1\n")
    text = refused({}, file)
    assert f"grpc.prot in {file}: no such option; did you mean grpc.port?" in text
    assert f"zebra in {file}: no such option" in text


@pytest.mark.parametrize("content", ["grpc = 5", "[[grpc]]\nport = 1"])
def test_a_section_that_is_no_table_is_refused(file: Path, content: str):
    file.write_text(content)
    assert refused({}, file) == f"grpc in {file}: must be a table"


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("SCORER_DEVICE", "tpu", "must be auto, cpu, cuda or cuda:N"),
        ("SHADOW_VERSION", "../x", "must be the name of a version: "),
        ("SHADOW_VERSION", "v1\n", "must be the name of a version: "),
        ("CACHE_PREFIX", "a b", "must be 1 to 32 letters, "),
        ("EXPERIMENTS_ARMS", '{"one": 5}', "one: must be a table"),
        ("EXPERIMENTS_ARMS", '{"one": {"share": 5, "timeline": 5}}', "one.timeline: must be a table"),
        (
            "EXPERIMENTS_ARMS",
            '{"one": {"share": 5, "model_version": ".."}}',
            "one.model_version: must be the name",
        ),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_in_words(variable: str, value: str, rule: str):
    text = refused({f"ANIMORA_{variable}": value})
    assert text.startswith(f"ANIMORA_{variable}: {rule}")
    assert "^" not in text


def test_wrong_values_are_refused_where_they_were_written(file: Path):
    file.write_text('[log]\nlevel = "loud"\n[http]\nport = 70000\n')
    lines = refused({"ANIMORA_GRPC_PORT": "many", "ANIMORA_HTTP_PORT": "-1"}, file).splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == [
        "ANIMORA_GRPC_PORT",
        "ANIMORA_HTTP_PORT",
        f"log.level in {file}",
    ]


@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_a_time_is_a_finite_number(value: str):
    assert "ANIMORA_CACHE_TIMEOUT: Input should be a finite number" in refused(
        {"ANIMORA_CACHE_TIMEOUT": value}
    )


@pytest.mark.parametrize("content", ["x = " + "[" * 100_000, f"[grpc]\nport = {'9' * 5000}"])
def test_a_file_past_the_parsers_limits_is_refused_by_its_name(file: Path, content: str):
    file.write_text(content)
    assert refused({}, file).startswith(f"{file}: not a TOML file: ")


def test_a_file_whose_name_is_too_long_is_refused_by_it(tmp_path: Path):
    assert "cannot be read" in refused({}, tmp_path / ("x" * 300))


@pytest.mark.parametrize("number", ["grpc.port", "cache.timeout"])
def test_a_boolean_is_refused_as_a_number(file: Path, number: str):
    section, name = number.split(".")
    file.write_text(f"[{section}]\n{name} = true\n")
    assert refused({}, file) == f"{number} in {file}: must be a number, not true or false"


def test_an_empty_path_in_the_file_is_none(file: Path):
    file.write_text('[catalog]\ndirectory = ""\n[models]\nverify_key = ""\n')
    settings = load_settings({}, file)
    assert (settings.catalog.directory, settings.models.verify_key) == (None, None)


@pytest.mark.parametrize("text", ["catalog.directory", "models.store", "grpc.host", "database.url"])
def test_text_has_no_nul_character(file: Path, text: str):
    section, name = text.split(".")
    file.write_text(f'[{section}]\n{name} = "a\\u0000b"\n')
    assert refused({}, file) == f"{text} in {file}: must not contain a NUL character"


ADMIN = {"ANIMORA_ADMIN_ENABLED": "true", "ANIMORA_MODELS_STORE": "models"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ANIMORA_ADMIN_PORT": "50051"}, "admin.port is grpc.port"),
        ({"ANIMORA_ADMIN_PORT": "9464"}, "admin.port is http.port"),
        ({"ANIMORA_ADMIN_HOST": "0.0.0.0"}, "admin.insecure"),
        ({"ANIMORA_ADMIN_HOST": "::"}, "admin.insecure"),
        ({"ANIMORA_ADMIN_PORT": "65536"}, "ADMIN_PORT"),
        ({"ANIMORA_ADMIN_SIGNKEY": "key.pem"}, "ANIMORA_ADMIN_SIGNKEY"),
    ],
)
def test_an_invalid_admin_port_is_refused(options, named):
    assert named in refused(ADMIN | options)


@pytest.mark.parametrize(
    "options",
    [
        {"ANIMORA_ADMIN_HOST": "0.0.0.0", "ANIMORA_ADMIN_INSECURE": "true"},
        {"ANIMORA_ADMIN_PORT": "0", "ANIMORA_GRPC_PORT": "0"},
        {"ANIMORA_ADMIN_PORT": "50051", "ANIMORA_ADMIN_ENABLED": "false"},
    ],
)
def test_a_valid_admin_port_is_accepted(options):
    load_settings(ADMIN | options, None)


@pytest.mark.parametrize("variable", ["GRPC_HOST", "HTTP_HOST", "TIMELINE_TOKEN_KEY"])
def test_text_that_is_not_utf_8_is_refused_by_its_name(variable: str):
    value = os.fsdecode(b"\xff" * 16)  # as os.environ has it
    assert refused({f"ANIMORA_{variable}": value}) == f"ANIMORA_{variable}: must be UTF-8"


@pytest.mark.failure(30)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "LocalHost", "::1"])
def test_any_address_of_loopback_needs_no_tls(host: str):
    settings = load_settings({"ANIMORA_GRPC_HOST": host, "ANIMORA_HTTP_HOST": host}, None)
    assert (settings.grpc.host, settings.http.host) == (host, host)


@pytest.mark.failure(30)
def test_contradicting_options_are_refused_with_advice():
    assert "or insecure = true" in refused({"ANIMORA_GRPC_HOST": "0.0.0.0"})
    assert "set both or neither" in refused({"ANIMORA_GRPC_TLS_KEY": "key.pem"})


def test_a_file_that_cannot_be_read_is_refused_by_its_name(file: Path):
    assert refused({}, file) == f"{file}: there is no such configuration file"
    assert refused({}, file.parent) == f"{file.parent}: is not a regular file"
    file.write_text("port: 1")
    assert refused({}, file).startswith(f"{file}: not a TOML file: ")
    file.write_bytes(b"\xff\xfe")
    assert refused({}, file).startswith(f"{file}: cannot be read: ")


@pytest.mark.parametrize("section", ["database", "cache"])
def test_errors_never_contain_a_secret(file: Path, section: str):
    file.write_text(
        f'[{section}]\nurl = "rdeis://:hunter2@host"\ntimeout = "hunter2"\n[hunter]\nx = "hunter2"\n'
    )
    with pytest.raises(ConfigurationError) as error:
        load_settings({f"ANIMORA_{section.upper()}_URL": "sider://:hunter2@host"}, file)
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_wrong_values_are_not_quoted_by_the_settings_themselves():
    with pytest.raises(ValidationError) as error:
        Settings.model_validate({"cache": {"url": "sider://:hunter2@host"}})
    assert "hunter2" not in str(error.value)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().grpc.port = 1


def test_the_description_loads_as_the_same_settings(file: Path):
    settings = load_settings(
        {
            "ANIMORA_GRPC_PORT": "1",
            "ANIMORA_MODELS_STORE": 'a "quoted" folder\\ with a\ttab and ünïcode',
            "ANIMORA_CATALOG_DIRECTORY": "/var/cache/animora",
            "ANIMORA_MODELS_READY_REQUIRES_MODEL": "yes",
        },
        None,
    )
    file.write_text(describe(settings), encoding="utf-8")
    assert load_settings({}, file) == settings


def test_a_description_has_every_option():
    described = describe(Settings())
    for option in options():
        assert f"\n{option.name} = " in described or f"\n# {option.name} is not set" in described


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:hunter2@host:6379/0", "redis://:*****@host:6379/0"),
        ("redis://user:hun%40ter2@host", "redis://user:*****@host"),
        ("redis://[::1]:6379?password=hunter2&db=1", "redis://[::1]:6379?password=*****&db=1"),
        ("unix:///run/redis.sock?db=0", "unix:///run/redis.sock?db=0"),
        # Not escaped as they should be, so that the password seems to be something else:
        ("redis://:hun/ter2@host", "*****"),
        ("redis://:hun#ter2@host", "*****"),
        ("redis://:hun?ter2@host", "*****"),
        ("redis://[hunter2", "*****"),
    ],
)
def test_passwords_are_hidden_in_a_description(url: str, shown: str):
    settings = load_settings({"ANIMORA_CACHE_URL": url}, None)
    assert tomllib.loads(describe(settings))["cache"]["url"] == shown


def test_a_dsn_of_keywords_and_values_is_hidden_as_a_whole():
    settings = load_settings({"ANIMORA_DATABASE_URL": "host=db user=animora password=hunter2"}, None)
    assert tomllib.loads(describe(settings))["database"]["url"] == "*****"


@pytest.mark.parametrize("service", ["", "grpc", "http", "database-url", "cache", "grpc-port"])
def test_a_kubernetes_service_of_any_name_sets_no_option(service: str):
    name = f"animora-{service}".strip("-").replace("-", "_").upper()
    links = {
        f"{name}_SERVICE_HOST": "10.96.0.7",
        f"{name}_SERVICE_PORT": "50051",
        f"{name}_SERVICE_PORT_GRPC": "50051",
        f"{name}_PORT": "tcp://10.96.0.7:50051",
        f"{name}_PORT_50051_TCP": "tcp://10.96.0.7:50051",
        f"{name}_PORT_50051_TCP_PROTO": "tcp",
        f"{name}_PORT_50051_TCP_PORT": "50051",
        f"{name}_PORT_50051_TCP_ADDR": "10.96.0.7",
        f"{name}_PORT_53_UDP": "udp://10.96.0.7:53",
        f"{name}_PORT_53_UDP_ADDR": "10.96.0.7",
    }
    assert load_settings(links, None) == Settings()


def test_the_address_of_a_kubernetes_service_is_no_value_of_any_option(file: Path):
    file.write_text("[grpc]\nport = 7000\n")
    for option in options():
        links = {option.variable: "tcp://10.96.0.7:50051"}
        assert load_settings(links, None) == Settings()
        assert load_settings(links, file).grpc.port == 7000


def test_no_variable_of_the_trainer_or_the_client_has_the_name_of_a_service_link():
    sources = [*Path("training/animora_training").rglob("*.py"), *Path("client/animora_client").rglob("*.py")]
    names = {name for source in sources for name in re.findall(r"ANIMORA_[A-Z_]+", source.read_text())}
    assert "ANIMORA_DATABASE_URL" in names
    assert not [name for name in names if re.search(r"_PORT|_SERVICE_HOST", name)]


def limits(option: Option) -> tuple[float | None, float | None, float | None]:
    """The bounds of an option: greater than, at least, at most."""
    found: dict[str, float] = {}
    for limit in option.field.metadata:
        for name in ("gt", "ge", "le"):
            if (value := getattr(limit, name, None)) is not None:
                found[name] = float(value)
    return found.get("gt"), found.get("ge"), found.get("le")


NUMBERS = [option for option in options() if type(option.field.default) in {int, float}]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.key)
def test_every_number_has_bounds_and_is_refused_beyond_them(option: Option):
    above, least, most = limits(option)
    assert most is not None
    assert (above is None) != (least is None)
    too_small = above if least is None else math.nextafter(least, -math.inf)
    too_large = math.nextafter(most, math.inf)
    if option.field.annotation is int:
        too_small, too_large = math.floor(too_small or 0), math.ceil(too_large)
    for value in (too_small, too_large, "nan", "inf", "-inf", "1e999", "-1", f"{10 * most:.0f}"):
        assert option.variable in refused({option.variable: str(value)})


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.key)
def test_every_number_can_be_as_large_as_its_bound(option: Option):
    _, _, most = limits(option)
    assert most is not None
    others = {}
    if option.name == "max_candidates":
        others = {"ANIMORA_SCORER_MAX_QUEUE_ROWS": str(int(most))}
    value = str(int(most)) if option.field.annotation is int else str(most)
    settings = load_settings({option.variable: value, **others}, None)
    assert getattr(getattr(settings, option.section), option.name) == most


@pytest.mark.parametrize("name", ["ranking", "timeline"])
def test_a_queue_that_would_take_no_large_request_is_refused(name: str):
    text = refused(
        {f"ANIMORA_{name.upper()}_MAX_CANDIDATES": "20000", "ANIMORA_SCORER_MAX_QUEUE_ROWS": "19999"}
    )
    assert text.startswith(f"scorer.max_queue_rows is below {name}.max_candidates")


def test_one_port_for_both_protocols_is_refused():
    text = refused({"ANIMORA_GRPC_PORT": "7000", "ANIMORA_HTTP_PORT": "7000"})
    assert text.startswith("http.port is grpc.port")
    load_settings({"ANIMORA_GRPC_PORT": "0", "ANIMORA_HTTP_PORT": "0"}, None)


@pytest.mark.failure(30)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com", ""])
def test_metrics_beyond_loopback_must_be_allowed(file: Path, host: str):
    file.write_text(f'[http]\nhost = "{host}"\n')
    assert "insecure" in refused({}, file)
    file.write_text(f'[http]\nhost = "{host}"\ninsecure = true\n')
    assert load_settings({}, file).http.host == host
