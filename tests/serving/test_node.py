"""The npm package openai, as npm installs it, against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from serving.test_api import NOT_A_CHAT

import nanochat

pytestmark = pytest.mark.long

CLIENT = Path(__file__).with_name("client.mjs")
TEMPERATURE = "temperature must be finite and between 0 and 10000, got -1"


@pytest.fixture(scope="module")
def found(server, chatting, tmp_path_factory):
    """What the client prints that is installed in an empty folder."""
    assert shutil.which("node") and shutil.which("npm"), (
        "this test needs Node.js 20 or later and npm: apt-get install nodejs npm"
    )
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "openai@6"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    shutil.copy(CLIENT, folder)
    words = [server.url, chatting.url]
    done = subprocess.run(
        ["node", str(folder / CLIENT.name), *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(names):
    return nanochat.load(names).generate("an", seed=3, max_new_tokens=20)[2:]


def test_the_client_lists_the_model(found):
    assert found["models"] == ["run"]


def test_the_client_completes(found, expected):
    (choice,) = found["whole"]["choices"]
    assert (choice["text"], choice["finish_reason"]) == (expected, "stop")
    assert "".join(choice["logprobs"]["tokens"]) == expected
    assert found["streamed"] == {"text": expected, "usage": found["whole"]["usage"]}


def test_the_client_chats(found, expected):
    (choice,) = found["message"]["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == expected
    usage = found["message"]["usage"]
    assert found["chatted"] == {"text": expected, "usage": usage}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_client_raises_the_errors_of_its_own(found):
    kind = "invalid_request_error"
    assert [list(refused.values()) for refused in found["refusals"]] == [
        [400, kind, "temperature", None, f"400 {TEMPERATURE}", "BadRequestError"],
        [404, kind, "model", "model_not_found", "404 model must be run, got 'gpt-4'",
         "NotFoundError"],
        [400, kind, None, None, f"400 {NOT_A_CHAT['error']['message']}", "BadRequestError"],
    ]  # fmt: skip
