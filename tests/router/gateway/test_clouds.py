"""Claude on Bedrock and on Vertex AI behind the gateway: fakes of both check what they get, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import httpx
import pytest
from google.oauth2 import service_account

from claude_router.demo.app import create_app
from claude_router.gateway.bedrock_stream import EventStream
from claude_router.gateway.callers import Caller
from claude_router.gateway.teams import OPEN, Policy
from claude_router.gateway.upstream_vertex import ServiceAccount
from claude_router.gateway.upstreams import Upstreams
from claude_worker.openai.errors import ApiError
from router.fakes import streams
from router.gateway.clouds import Cloud, FakeBedrock, FakeVertex, Refusal, chunk, frame
from router.gateway.harness import MESSAGES, Running, body, error_of, gateway, listening

pytestmark = pytest.mark.asyncio

COUNT = f"{MESSAGES}/count_tokens"
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14, oauth-2025-04-20,context-1m-2025-08-07"
AWS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "aws-s3cret", "AWS_SESSION_TOKEN": "aws-t0ken",
       "AWS_REGION": "eu-west-1"}  # fmt: skip
API_KEY = {"AWS_BEARER_TOKEN_BEDROCK": "bedrock-api-k3y", "AWS_REGION": "eu-west-1"}


@dataclass
class Behind:
    """A gateway with a cloud behind it."""

    cloud: Cloud
    running: Running
    url: str
    name: str

    async def post(self, text: str = "::say hello", path: str = MESSAGES, **fields: Any) -> httpx.Response:
        headers = fields.pop("headers", {})
        asked = {"model": "claude-opus-4-5-20251101", "messages": [{"role": "user", "content": text}], **fields}
        return await self.running.post(body(**asked), path, **headers)


def bedrock() -> FakeBedrock:
    secrets = {AWS["AWS_ACCESS_KEY_ID"]: AWS["AWS_SECRET_ACCESS_KEY"]}
    return FakeBedrock(create_app(), secrets=secrets, api_keys={"bedrock-api-k3y"}, session_token="aws-t0ken")


@contextlib.asynccontextmanager
async def behind(folder: Path, name: str, **options: Any) -> AsyncIterator[Behind]:
    """`name`: bedrock, bedrock-key or vertex."""
    cloud: Cloud = FakeVertex(create_app()) if name == "vertex" else bedrock()
    async with listening(cloud) as port:
        url = f"http://127.0.0.1:{port}"
        if isinstance(cloud, FakeVertex):
            files = {"GOOGLE_APPLICATION_CREDENTIALS": cloud.key_file(url), "CLOUD_ML_REGION": cloud.region,
                     "ANTHROPIC_VERTEX_BASE_URL": f"{url}/v1"}  # fmt: skip
        else:
            files = {**(API_KEY if name == "bedrock-key" else AWS), "ANTHROPIC_BEDROCK_BASE_URL": url}
        files |= options.pop("files", {})
        kind = name.partition("-")[0]
        upstreams = asyncio.to_thread  # the token is fetched from this very loop
        async with late_gateway(folder, kind, files, upstreams, **options) as running:
            yield Behind(cloud, running, url, name)


@contextlib.asynccontextmanager
async def late_gateway(
    folder: Path, kind: str, files: dict[str, str], in_thread: Any, **options: Any
) -> AsyncIterator[Running]:
    """A gateway whose credentials are looked at off the event loop, as its own thread would."""
    async with gateway(folder, streams(b""), kind=kind, files=files, url="http://127.0.0.1:9", look=False,
                       **options) as running:  # fmt: skip
        await in_thread(running.upstreams.look)
        assert running.upstreams.problem == ""
        yield running


@pytest.fixture(params=["bedrock", "bedrock-key", "vertex"])
async def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Behind]:
    async with behind(tmp_path, request.param) as running:
        yield running


# -- what both do ----------------------------------------------------------------------------------------------------


async def test_a_stream_is_the_messages_api_s_and_metered(cloud: Behind) -> None:
    answer = await cloud.post("::say hello big world", headers={"anthropic_beta": BETAS})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [line[7:] for line in lines if line.startswith("event: ")] == [event["type"] for event in events]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == "hello big world"
    seen = cloud.cloud.seen[0]
    assert not {"model", "anthropic_beta"} & {*seen.body} - {"anthropic_beta"}
    betas = seen.headers["anthropic-beta"].split(",") if cloud.name == "vertex" else seen.body["anthropic_beta"]
    assert betas == ["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"], "those that the cloud knows"
    assert seen.model == ("claude-opus-4-5@20251101" if cloud.name == "vertex" else
                          "eu.anthropic.claude-opus-4-5-20251101-v1:0")  # fmt: skip
    assert "token-of-the-worker" not in str(seen)
    row = (await cloud.running.ended())[0]
    usage = events[-2]["usage"]
    assert (row["input"], row["output"], row["flags"]) == (usage["input_tokens"], usage["output_tokens"], "")
    assert row["cost"] == pytest.approx((usage["input_tokens"] * 5 + usage["output_tokens"] * 25) / 1e6)


async def test_an_answer_in_one_piece_and_a_count(cloud: Behind) -> None:
    answer = await cloud.post(stream=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"] == [{"type": "text", "text": "hello"}]
    row = (await cloud.running.ended())[0]
    assert (row["input"], row["output"], row["flags"]) == (*map(answer.json()["usage"].get, USAGE), "")
    answer = await cloud.post(path=COUNT)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"input_tokens": len(json.dumps([{"role": "user", "content": "::say hello"}]))}
    assert len(cloud.running.rows()) == 1


USAGE = ("input_tokens", "output_tokens")


async def test_a_large_body_that_comes_in_pieces(cloud: Behind) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        data = body("claude-haiku-4-5", messages=[{"role": "user", "content": "::say hi"}], system="x" * 300_000)
        for start in range(0, len(data), 50_000):
            yield data[start : start + 50_000]

    answer = await cloud.running.client.post(MESSAGES, content=pieces(), headers={
        "authorization": "Bearer token-of-the-worker", "content-type": "application/json",
    })  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert cloud.cloud.seen[0].body["system"] == "x" * 300_000
    assert "haiku-4-5" in cloud.cloud.seen[0].model


@pytest.mark.parametrize(("status", "kind", "reason"), [
    (400, "invalid_request_error", "ValidationException"), (404, "not_found_error", "ResourceNotFoundException"),
    (429, "rate_limit_error", "ThrottlingException"), (500, "api_error", "InternalServerException"),
    (503, "overloaded_error", "ServiceUnavailableException"),
])  # fmt: skip
async def test_its_errors_are_the_messages_api_s(cloud: Behind, status: int, kind: str, reason: str) -> None:
    cloud.cloud.refusing = Refusal(status, reason, "prompt is too long: 3 tokens > 2 maximum")
    answer = await cloud.post()
    assert answer.status_code == status
    error = error_of(answer)
    assert (error["type"], error["message"]) == (kind, "prompt is too long: 3 tokens > 2 maximum")
    row = (await cloud.running.ended())[0]
    assert (row["status"], row["cost"]) == (status, 0.0)


@pytest.mark.parametrize("status", [401, 403])
async def test_what_it_says_of_the_account_no_worker_learns(
    cloud: Behind, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "claude_router")
    cloud.cloud.refusing = Refusal(status, "AccessDeniedException", "User arn:aws:iam::123:user/x may not; aws-t0ken")
    answer = await cloud.post()
    assert answer.status_code == status
    error = error_of(answer)
    assert "AccessDeniedException" in error["message"]
    assert not [word for word in ("arn:", "123", "t0ken") if word in answer.text + caplog.text]


async def test_what_it_does_not_offer_is_not_found_and_costs_nothing(cloud: Behind) -> None:
    for path in ("/v1/models", "/v1/models/claude-opus-5"):
        assert (await cloud.running.client.get(path, headers={"x-api-key": "token-of-the-worker"})).status_code == 404
    for model in ("gpt-5", "../x", "claude-opus-5/../y", "arn:aws:bedrock:eu-west-1:1:application-inference-profile/a"):
        answer = await cloud.post(model=model)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    rows = await cloud.running.ended(4)
    assert {(row["cost"], row["flags"]) for row in rows} == {(0.0, "")}
    assert cloud.cloud.seen == []


async def test_a_team_is_held_to_its_models_before(tmp_path: Path) -> None:
    async with behind(tmp_path, "bedrock", teams={"red": Policy(models=("haiku",))}) as cloud:
        assert (await cloud.post()).status_code == 403
        assert (await cloud.post(model="us.anthropic.claude-opus-4-6-v1")).status_code == 403
        assert (await cloud.post(model="us.anthropic.claude-haiku-4-5-20251001-v1:0")).status_code == 200
        assert [seen.model for seen in cloud.cloud.seen] == ["eu.anthropic.claude-haiku-4-5-20251001-v1:0"]


async def test_ids_of_one_s_own(tmp_path: Path) -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    files = {"MODEL_IDS": json.dumps({"claude-opus-4-5": arn})}
    async with behind(tmp_path, "bedrock", files=files) as cloud:
        assert (await cloud.post()).status_code == 200
        assert cloud.cloud.seen[0].model == arn
        assert "%2F" in cloud.cloud.seen[0].path


# -- Bedrock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [
    ("throttlingException", "rate_limit_error"), ("serviceUnavailableException", "overloaded_error"),
    ("modelStreamErrorException", "api_error"),
])  # fmt: skip
async def test_an_exception_in_the_stream_is_an_error_event(tmp_path: Path, name: str, kind: str) -> None:
    async with behind(tmp_path, "bedrock") as cloud:
        cloud.cloud.broken = frame(b'{"message":"slow down"}', message_type="exception", exception_type=name)
        answer = await cloud.post()
        last = answer.text.rstrip().split("\n\n")[-1]
        assert last.startswith("event: error\n")
        assert json.loads(last.split("data: ")[1])["error"] == {"type": kind, "message": "slow down"}


@pytest.mark.parametrize("broken", [chunk(b'{"type":"ping"}')[:-3], b"\0" * 40, chunk(b'{"type":"ping"}')[:-1] + b"x"])
async def test_a_stream_that_is_broken_is_cut(tmp_path: Path, broken: bytes) -> None:
    async with behind(tmp_path, "bedrock") as cloud:
        cloud.cloud.broken = broken
        with pytest.raises(httpx.RemoteProtocolError):
            await cloud.post()


@pytest.mark.parametrize(
    "broken", [b"\0" * 40, chunk(b'{"type":"ping"}')[:-1], frame(b"{}", message_type="event")[:-1]]
)
async def test_what_came_whole_before_a_broken_frame_is_passed_on(broken: bytes) -> None:
    class Frames:
        def __init__(self) -> None:
            self.left = [chunk(b'{"type":"message_delta"}') + broken]

        async def readany(self) -> bytes:
            return self.left.pop(0) if self.left else b""

        def at_eof(self) -> bool:
            return not self.left

    stream = EventStream(Frames())
    assert await stream.readany() == b'event: message_delta\ndata: {"type":"message_delta"}\n\n'
    assert not stream.at_eof()
    with pytest.raises(aiohttp.ClientPayloadError):
        await stream.readany()


async def test_a_body_whose_fields_cannot_be_read_is_refused(cloud: Behind) -> None:
    good = body(model="claude-opus-4-5-20251101")
    answer = await cloud.running.post(good[:-1] + b',"\xff":1}')
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")
    assert cloud.cloud.seen == []


async def test_a_wrong_secret_is_refused_by_the_fake(tmp_path: Path) -> None:
    async with behind(tmp_path, "bedrock", files={"AWS_SECRET_ACCESS_KEY": "another"}) as cloud:
        answer = await cloud.post()
        assert answer.status_code == 403
        assert "InvalidSignatureException" in answer.text
        assert "aws-t0ken" not in answer.text, "which the fake repeats, as AWS does"


# -- Vertex ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_renewed_before_its_end_and_while_that_fails_nobody_is_served(tmp_path: Path) -> None:
    fake = FakeVertex(create_app(), token_seconds=100)  # less than what is left when another is due
    async with listening(fake) as port:
        account = ServiceAccount(fake.key_file(f"http://127.0.0.1:{port}"))
        for number, now in ((1, 100.0), (2, 200.0)):
            await asyncio.to_thread(account.renew, iter([now] * 9).__next__)
            await asyncio.to_thread(account.join)
            assert account.token() == f"ya29.{number}"
        await asyncio.to_thread(account.renew, lambda: 201.0)
        assert fake.asked_for_tokens == 2, "not again so soon"
    account = ServiceAccount(fake.key_file("http://127.0.0.1:9"))
    account.renew(time.monotonic)
    account.join()
    assert account.token() == ""


# -- the Anthropic SDK's own clients at the fakes --------------------------------------------------------------------


@pytest.mark.parametrize("keys", [
    {"api_key": "bedrock-api-k3y"},
    {"aws_access_key": "AKIDEXAMPLE", "aws_secret_key": "aws-s3cret", "aws_session_token": "aws-t0ken"},
])  # fmt: skip
async def test_the_sdk_s_client_for_bedrock(keys: dict[str, Any]) -> None:
    fake = bedrock()
    async with (
        listening(fake) as port,
        anthropic.AsyncAnthropicBedrock(
            base_url=f"http://127.0.0.1:{port}", aws_region="eu-west-1", max_retries=0, **keys
        ) as client,
    ):
        await _talk(client, "eu.anthropic.claude-opus-4-5-20251101-v1:0", fake)


async def test_the_sdk_s_client_for_vertex() -> None:
    fake = FakeVertex(create_app())
    async with listening(fake) as port:
        url = f"http://127.0.0.1:{port}"
        made: Any = service_account.Credentials
        credentials = made.from_service_account_info(
            json.loads(fake.key_file(url)), scopes=["https://www.googleapis.com/auth/cloud-platform"]
        )
        async with anthropic.AsyncAnthropicVertex(
            base_url=f"{url}/v1", region=fake.region, project_id=fake.project, credentials=credentials, max_retries=0
        ) as client:
            await _talk(client, "claude-opus-4-5@20251101", fake)
            counted = await client.messages.count_tokens(model="claude-opus-4-5@20251101", messages=[
                {"role": "user", "content": "x"}])  # fmt: skip
            assert counted.input_tokens > 0


async def _talk(client: Any, model: str, fake: Cloud) -> None:
    asked: Any = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "::say hello there"}]}
    assert (await client.messages.create(**asked)).content[0].text == "hello there"
    async with client.messages.stream(**asked) as stream:
        assert await stream.get_final_text() == "hello there"
    await client.beta.messages.create(betas=["context-1m-2025-08-07"], **asked)
    fake.refusing = Refusal(429, "ThrottlingException", "slow down")
    with pytest.raises(anthropic.RateLimitError):
        await client.messages.create(**asked)
    assert len(fake.seen) == 4


# -- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "files", "told"), [
    ("bedrock", {}, "AWS_REGION"),
    ("bedrock", {"AWS_REGION": "eu-west-1"}, "neither"),
    ("bedrock", {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "k"}, "neither"),
    ("bedrock", {**AWS, "AWS_REGION": "x/../y"}, "AWS_REGION"),
    ("bedrock", {**AWS, "AWS_SECRET_ACCESS_KEY": "two w0rds"}, "AWS_SECRET_ACCESS_KEY"),
    ("bedrock", {**AWS, "ANTHROPIC_BEDROCK_REGION_PREFIX": "e/u"}, "PREFIX"),
    ("bedrock", {**AWS, "MODEL_IDS": "[1]"}, "MODEL_IDS"),
    ("bedrock", {**AWS, "MODEL_IDS": '{"a": "b c"}'}, "MODEL_IDS"),
    ("bedrock", {**AWS, "ANTHROPIC_BEDROCK_BASE_URL": "file:///x"}, "BASE_URL"),
    ("vertex", {}, "GOOGLE_APPLICATION_CREDENTIALS"),
    ("vertex", {"GOOGLE_APPLICATION_CREDENTIALS": '{"private_key": "w0rds"}'}, "GOOGLE_APPLICATION_CREDENTIALS"),
    ("vertex", {"GOOGLE_APPLICATION_CREDENTIALS": "[w0rds"}, "GOOGLE_APPLICATION_CREDENTIALS"),
])  # fmt: skip
async def test_what_is_no_account_is_told_without_its_values(
    tmp_path: Path, kind: str, files: dict[str, str], told: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    upstreams = Upstreams(tmp_path, None, kind=kind)
    upstreams.look()
    assert told in upstreams.problem
    assert "w0rds" not in upstreams.problem
    with pytest.raises(ApiError):
        upstreams.of(Caller("conv-a", "red"), OPEN)


async def test_a_team_s_account_may_be_a_cloud_s_while_the_shared_one_is_not(tmp_path: Path) -> None:
    for folder, files in {"shared": {"ANTHROPIC_API_KEY": "k"}, "teams/red": API_KEY}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    upstreams = Upstreams(tmp_path / "shared", tmp_path / "teams", "https://lite.example.com")
    upstreams.look()
    own: Any = upstreams.of(Caller("a", "red"), Policy(own_account=True))
    assert own.url == "https://bedrock-runtime.eu-west-1.amazonaws.com", "not where the shared account is"
    private: Any = upstreams.of(Caller("a", "red"), Policy(own_account=True, base_url="https://vpce.example.com/"))
    assert private.url == "https://vpce.example.com"
    shared: Any = upstreams.of(Caller("a", "blue"), OPEN)
    assert shared.url == "https://lite.example.com"
    assert "k3y" not in repr(own)
