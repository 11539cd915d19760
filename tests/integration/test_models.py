"""ModelService on the admin port of a whole server, under load whose replies are all checked."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from typer.testing import CliRunner

from animora_artifact import FolderStore, Pointer, pack, pointer_keys, signer
from animora_client import AsyncModelClient, FailedPrecondition, ModelClient, ModelVersion, NotFound
from animora_client.cli.app import app as client_app
from animora_proto.ranking.v1 import models_pb2 as pb
from animora_proto.ranking.v1 import ranking_pb2
from animora_proto.ranking.v1.models_pb2_grpc import ModelServiceStub
from animora_server.app import Application, running
from animora_server.auth import Role, describe_token, new_token
from animora_server.service.model_service import MODEL_SERVICE_NAME
from animora_server.settings import Settings
from tests.integration.serving import connected, settings_for, with_options
from tests.support.artifacts import tiny_artifact
from tests.support.certificates import Authority
from tests.support.feed import Feed
from tests.support.ledger import Ledger
from tests.support.pages import get
from tests.support.signing_keys import write_keys
from tests.support.until import HANG_TIMEOUT, until

if TYPE_CHECKING:
    from animora_proto.ranking.v1.models_pb2_grpc import ModelServiceAsyncStub

VERSIONS = ("v1", "v2", "v3")
NETWORKS = {version: tiny_artifact(version, seed=int(version[1]))[1] for version in VERSIONS}
TIMEOUT = HANG_TIMEOUT / 2


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A model store with three versions, v1 active."""
    store = FolderStore(tmp_path / "models")
    for version in VERSIONS:
        store.publish(tiny_artifact(version, seed=int(version[1]))[0])
    store.activate("v1")
    return store


@pytest.fixture
def settings(feed: Feed, redis_url: str, store: FolderStore, tmp_path: Path) -> Settings:
    """A server that reads ACTIVE once an hour, so that only an activation through it is followed."""
    return settings_for(
        feed.url,
        redis_url,
        tmp_path / "models",
        admin={"enabled": True, "port": 0},
        models={"poll_interval": 3600.0, "preflight": False, "ready_requires_model": True, "resident": 2},
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Application, "ModelServiceAsyncStub"]]:
    """A server with an admin port without credentials, and a stub for it."""
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{admin_port(application)}") as channel:
            yield application, ModelServiceStub(channel)


def admin_port(application: Application) -> int:
    assert application.admin is not None
    return application.admin.server.port


@pytest.fixture
async def models(settings: Settings) -> AsyncIterator["ModelServiceAsyncStub"]:
    async with serving(settings) as (_, stub):
        yield stub


def activate(stub: "ModelServiceAsyncStub", version: str, **fields: Any) -> Any:
    return stub.ActivateModel(pb.ActivateModelRequest(version=version, **fields), timeout=TIMEOUT)


async def refusal(call: Any) -> tuple[str, str, str]:
    """The code, reason and text of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(refused.value)
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details)
    return refused.value.code().name, info.reason, refused.value.details() or ""


async def test_the_versions_and_what_the_server_does_with_them_are_listed_newest_first(models):
    listed = (await models.ListModels(pb.ListModelsRequest())).models
    assert [model.version for model in listed] == ["v3", "v2", "v1"]
    assert [(model.active, model.serving, model.resident) for model in listed] == [
        (False, False, False), (False, False, False), (True, True, True),
    ]  # fmt: skip
    (model,) = [model for model in listed if model.version == "v1"]
    assert (model.users, model.posts, model.has_native_code) == (3, 4, False)
    assert model.size_bytes > 1000
    assert model.create_time.ToDatetime().year >= 2026
    assert not model.HasField("refusal")


async def test_pages_of_versions_have_no_gap_and_no_repeat(models, store):
    first = await models.ListModels(pb.ListModelsRequest(page_size=2))
    store.publish(tiny_artifact("v9")[0])  # after the first page: not on the second
    second = await models.ListModels(pb.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [model.version for page in (first, second) for model in page.models] == ["v3", "v2", "v1"]
    assert second.next_page_token == ""
    whole = await models.ListModels(pb.ListModelsRequest(page_size=4))
    assert (len(whole.models), whole.next_page_token) == (4, "")


async def test_a_version_is_activated_forward_and_back_and_served_when_the_call_returns(settings, store):
    async with serving(settings) as (application, models), connected(application) as ranking:
        for version in ("v2", "v1", "v3"):
            model = (await activate(models, version)).model
            assert (model.version, model.active, model.serving, model.resident) == (version, True, True, True)
            assert store.active() == version
            ranked = await ranking.Rank(ranking_pb2.RankRequest(user_id=7, post_ids=[100, 200]))
            assert ranked.model_version == version
        assert store.pointer() == Pointer(("v3", "v1", "v2", "v1"))


async def test_activating_the_active_version_changes_nothing(models, store):
    before = store.pointer()
    assert (await activate(models, "v1")).model.serving
    assert (await activate(models, "v1", expected_version="v3")).model.serving  # a repeated call
    assert store.pointer() == before


async def test_equal_calls_at_once_share_one_activation(models, store):
    answers = await asyncio.gather(*(activate(models, "v2") for _ in range(5)))
    assert [answer.model.serving for answer in answers] == [True] * 5
    assert store.pointer() == Pointer(("v2", "v1"))


async def test_of_two_activations_that_expect_the_same_version_one_wins(models, store):
    calls = (activate(models, version, expected_version="v1") for version in ("v2", "v3"))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    won = [outcome.model.version for outcome in outcomes if isinstance(outcome, pb.ActivateModelResponse)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert [store.active()] == won
    assert [error.code().name for error in lost] == ["FAILED_PRECONDITION"]
    assert "is active now" in (lost[0].details() or "")


async def test_an_activation_from_another_version_than_the_expected_one_is_refused(models, store):
    code, reason, text = await refusal(activate(models, "v2", expected_version="v3"))
    assert (code, reason, text) == ("FAILED_PRECONDITION", "ACTIVE_CHANGED", "v1 is active now")
    assert (await refusal(activate(models, "v2", expected_version="")))[1] == "ACTIVE_CHANGED"
    assert store.active() == "v1"


async def test_a_version_that_cannot_serve_is_refused_before_active_is_written(models, store, tmp_path):
    content = bytearray((tmp_path / "models/v2/model.ts").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "models/v2/model.ts").write_bytes(content)
    code, reason, text = await refusal(activate(models, "v2"))
    assert (code, reason) == ("FAILED_PRECONDITION", "MODEL_REFUSED")
    assert text == "v2 was not activated: digest: model.ts does not match its SHA-256"
    assert store.pointer() == Pointer(("v1",))
    store.publish(tiny_artifact("wide", image=7)[0])  # not as wide as the catalog's embeddings
    assert "wide was not activated: dimensions: " in (await refusal(activate(models, "wide")))[2]
    assert store.pointer() == Pointer(("v1",))


async def test_a_version_whose_replay_differs_is_refused_by_the_child_process(models, store):
    artifact, _ = tiny_artifact("off")
    off = replace(
        artifact,
        golden=replace(artifact.golden, probabilities=artifact.golden.probabilities * np.float32(0.5)),
    )
    store.publish(off)
    assert "off was not activated: golden: " in (await refusal(activate(models, "off")))[2]
    assert store.active() == "v1"


async def test_an_unknown_version_is_not_found(models, store):
    for call in (activate(models, "v7"), models.GetModel(pb.GetModelRequest(version="v7"))):
        code, reason, text = await refusal(call)
        assert (code, reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "v7" in text
    assert store.active() == "v1"


async def test_an_activation_that_outlasts_its_deadline_goes_on(settings, store):
    async with serving(with_options(settings, models={"preflight": True})) as (_, models):
        # The child process of the check alone takes longer than that.
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await models.ActivateModel(pb.ActivateModelRequest(version="v2"), timeout=0.05)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await activate(models, "v2")).model.serving
        assert store.pointer() == Pointer(("v2", "v1"))


async def test_a_version_that_active_names_and_the_server_refuses_is_listed_with_its_reason(
    settings, store, tmp_path
):
    (tmp_path / "models/v2/golden.npz").unlink()
    store.activate("v2")  # by another program, which did not verify it
    async with serving(with_options(settings, models={"poll_interval": 0.05})) as (_, models):
        model = (await models.GetModel(pb.GetModelRequest(version="v2"))).model
        assert (model.active, model.serving, model.refusal.reason) == (True, False, "size")
        assert model.refusal.detail == "golden.npz is missing"
        assert (await models.GetModel(pb.GetModelRequest(version="v1"))).model.serving
        code, reason, text = await refusal(activate(models, "v2"))
        assert (code, reason) == ("FAILED_PRECONDITION", "MODEL_REFUSED")
        assert text == "v2 is active in the store, but this server refuses it: size: golden.npz is missing"


async def test_versions_with_damaged_manifests_are_listed_with_the_reason(models, tmp_path):
    manifest = tmp_path / "models/v3/manifest.json"
    (tmp_path / "models/v2/manifest.json").write_text("{")
    manifest.write_text(manifest.read_text().replace('"interactions": 0', f'"interactions": {10**30}'))
    (tmp_path / "models/half-written").mkdir()
    listed = (await models.ListModels(pb.ListModelsRequest())).models
    assert [(model.version, model.refusal.reason) for model in listed] == [
        ("v3", "manifest"), ("v2", "manifest"), ("v1", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListModels", pb.ListModelsRequest(page_size=-1), "page_size"),
        ("ListModels", pb.ListModelsRequest(page_token="v2"), "page_token"),
        ("ListModels", pb.ListModelsRequest(page_token="MTouLg=="), "page_token"),
        ("GetModel", pb.GetModelRequest(), "version"),
        ("GetModel", pb.GetModelRequest(version="../v1"), "version"),
        ("ActivateModel", pb.ActivateModelRequest(version="ACTIVE/"), "version"),
        ("ActivateModel", pb.ActivateModelRequest(version="v1", expected_version="/"), "expected_version"),
    ],
)
async def test_a_wrong_field_is_named(models, method, request_, field):
    code, reason, text = await refusal(getattr(models, method)(request_))
    assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert text.startswith(f"{field}: ")


async def test_a_store_that_is_away_is_unavailable(models, tmp_path):
    (tmp_path / "models").rename(tmp_path / "away")
    (tmp_path / "models").write_text("not a folder")
    for call in (models.ListModels(pb.ListModelsRequest()), activate(models, "v2")):
        code, reason, _ = await refusal(call)
        assert (code, reason) == ("UNAVAILABLE", "MODEL_STORE_UNAVAILABLE")


async def test_a_signed_active_needs_the_key_of_the_server_and_is_signed_with_it(settings, store, tmp_path):
    keys = write_keys(tmp_path / "keys")
    for version in ("s1", "s2"):
        store.add(signer(keys.private).sign(pack(tiny_artifact(version, seed=1)[0])))
    FolderStore(tmp_path / "models", keys=pointer_keys(private_key=keys.private)).activate("s1")
    verifying = with_options(settings, models={"verify_key": keys.public})
    async with serving(verifying) as (_, models):
        code, reason, text = await refusal(activate(models, "s2"))
        assert (code, reason) == ("FAILED_PRECONDITION", "ACTIVE_NOT_SIGNED")
        assert "admin.sign_key" in text
        assert "it is not signed" in (await refusal(activate(models, "v2")))[2]
    async with serving(with_options(verifying, admin={"sign_key": keys.private})) as (_, models):
        model = (await activate(models, "s2")).model
        assert (model.serving, model.signed) == (True, True)
        assert not (await models.GetModel(pb.GetModelRequest(version="v2"))).model.signed
    signed = FolderStore(tmp_path / "models", keys=pointer_keys(keys.public)).pointer()
    assert signed.names == ("s2", "s1")


async def test_only_callers_with_the_role_admin_are_admitted_over_tls(settings, tmp_path):
    tokens = {role: new_token() for role in Role}
    entries = "".join(describe_token(token, role, [role]) for role, token in tokens.items())
    (tmp_path / "tokens.toml").write_text(entries)
    authority = Authority()
    issued = authority.issue_server()
    files = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    files["tls_certificate"].write_bytes(issued.certificate)
    files["tls_key"].write_bytes(issued.key)
    secured = with_options(settings, grpc=files, auth={"tokens": tmp_path / "tokens.toml"})
    async with running(secured) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        credentials = grpc.ssl_channel_credentials(authority.certificate)
        async with grpc.aio.secure_channel(f"127.0.0.1:{admin_port(application)}", credentials) as channel:
            models: ModelServiceAsyncStub = ModelServiceStub(channel)

            def call(token):
                metadata = () if token is None else (("authorization", f"Bearer {token}"),)
                return models.ListModels(pb.ListModelsRequest(), metadata=metadata)

            assert len((await call(tokens[Role.ADMIN])).models) == 3
            assert (await refusal(call(None)))[:2] == ("UNAUTHENTICATED", "UNAUTHENTICATED")
            for role in (Role.RANK, Role.METRICS):
                assert (await refusal(call(tokens[role])))[:2] == ("PERMISSION_DENIED", "ROLE_REQUIRED")
            health = health_pb2_grpc.HealthStub(channel)
            checked = await health.Check(health_pb2.HealthCheckRequest(service=MODEL_SERVICE_NAME))
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        async with grpc.aio.secure_channel(f"127.0.0.1:{application.grpc.port}", credentials) as channel:
            metadata = (("authorization", f"Bearer {tokens[Role.ADMIN]}"),)
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await ModelServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=metadata)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED  # not on the ranking port
        page = await asyncio.to_thread(get, application.probes.port, "/metrics", tokens[Role.METRICS])
        assert 'animora_auth_refusals_total{port="admin",reason="permission_denied"} 2.0' in page


async def test_the_admin_port_lists_and_activates_before_the_server_is_ready(settings, store, tmp_path):
    (tmp_path / "models/ACTIVE").unlink()
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{admin_port(application)}") as channel:
            assert not application.health.became_ready.is_set()
            assert (await activate(ModelServiceStub(channel), "v3")).model.serving
        await application.listen()


async def test_activations_forward_and_back_under_load_fail_no_request(settings, feed):
    ledger = Ledger(feed, NETWORKS)
    async with (
        serving(settings) as (application, models),
        connected(application) as ranking,
        ledger.load(ranking),
    ):
        for number in range(20):
            version = VERSIONS[number % len(VERSIONS)]
            assert (await activate(models, version)).model.serving
            ledger.versions.clear()
            await ledger.until_version(version)
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


async def test_an_activation_is_cancelled_when_the_server_stops(settings):
    async with AsyncExitStack() as stack:
        async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
            await application.listen()
            target = f"127.0.0.1:{admin_port(application)}"
            models: ModelServiceAsyncStub = ModelServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(target))
            )
            waiting = asyncio.ensure_future(activate(models, "v2"))
            await until(lambda: application.admin is not None and application.admin.activator.running)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await waiting
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_clients_list_and_activate_versions(settings, store):
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        target = f"127.0.0.1:{admin_port(application)}"
        async with AsyncModelClient(target, timeout=TIMEOUT) as models:
            page = await models.list_models(page_size=2)
            assert [model.version for model in page.models] == ["v3", "v2"]
            page = await models.list_models(page_token=page.next_page_token)
            assert [(model.version, model.serving) for model in page.models] == [("v1", True)]
            assert (await models.activate_model("v2", expected="v1")).serving
            with pytest.raises(FailedPrecondition, match="v2 is active now"):
                await models.activate_model("v3", expected="v1")
            with pytest.raises(NotFound):
                await models.get_model("v7")

        def call() -> tuple[ModelVersion, ModelVersion]:
            with ModelClient(target, timeout=TIMEOUT) as models:
                return models.activate_model("v3"), models.get_model("v2")

        activated, before = await asyncio.to_thread(call)
        assert (activated.version, activated.serving, before.active) == ("v3", True, False)
        assert store.active() == "v3"


async def test_the_commands_list_and_activate_versions(settings, store):
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        environment = {"ANIMORA_ADMIN_TARGET": f"127.0.0.1:{admin_port(application)}"}

        async def run(*words: str, code: int = 0) -> str:
            invoke = CliRunner().invoke
            result = await asyncio.to_thread(invoke, client_app, ["models", *words], env=environment)
            assert result.exit_code == code, result.output
            return result.stdout if code == 0 else result.stderr

        assert "v2 is active, and served by" in await run("activate", "v2", "--timeout", "100")
        listed = json.loads(await run("list", "--json"))
        assert [(model["version"], model["serving"]) for model in listed] == [
            ("v3", False), ("v2", True), ("v1", False),
        ]  # fmt: skip
        assert "active, serving" in await run("list")
        refused = await run("activate", "v3", "--expected", "v1", code=1)
        assert "FAILED_PRECONDITION: v2 is active now" in refused
        assert store.active() == "v2"
