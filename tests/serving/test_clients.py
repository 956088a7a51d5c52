"""Clients of other projects, as they are installed: the openai package and the command llm."""

from __future__ import annotations

import os
import subprocess
import sys

import openai
import pytest
from nonempty import nonempty
from serving.server import KEY, WAIT_S
from serving.test_api import NOT_A_CHAT

import nanochat


@pytest.fixture(scope="module")
def model(names):
    return nanochat.load(names)


def client_of(server, **options):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", **{"api_key": KEY, "timeout": WAIT_S, "max_retries": 0, **options}
    )  # fmt: skip


def test_openai_completes(server, model):
    with client_of(server) as client:
        assert [each.id for each in client.models.list()] == ["run"]
        assert client.models.retrieve("run").owned_by == "nanochat"
        how = {"model": "run", "prompt": "an", "seed": 3, "max_tokens": 20}
        whole = client.completions.create(**how, logprobs=2)
        expected = model.generate("an", seed=3, max_new_tokens=20)[2:]
        (choice,) = whole.choices
        assert (choice.text, choice.finish_reason) == (expected, "stop")
        assert "".join(choice.logprobs.tokens) == expected
        chunks = list(client.completions.create(
            **how, stream=True, stream_options={"include_usage": True}
        ))  # fmt: skip
        assert "".join(each.choices[0].text for each in chunks[:-1]) == expected
        assert chunks[-1].usage == whole.usage


def test_openai_chats(keyed, model):
    with client_of(keyed) as client:
        how = {
            "model": "run", "messages": [{"role": "user", "content": "an"}], "seed": 3,
            "max_completion_tokens": 20, "n": 2,
        }  # fmt: skip
        whole = client.chat.completions.create(**how)
        expected = [text[2:] for text in
                    model.generate("an", seed=3, max_new_tokens=20, num_samples=2)]  # fmt: skip
        assert [choice.message.content for choice in whole.choices] == expected
        found = ["", ""]
        for chunk in nonempty(client.chat.completions.create(**how, stream=True)):
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        assert found == expected


def test_openai_raises_the_errors_of_its_own(server, keyed):
    with client_of(server) as client, client_of(keyed, api_key="wrong") as stranger:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="run", prompt="an", temperature=-1)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="run", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        assert caught.value.body == NOT_A_CHAT["error"]
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model="gpt-4", prompt="an")
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_llm_prompts_through_its_openai_models(keyed, model, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"""- model_id: mine
  model_name: run
  api_base: {keyed.url}/v1
  api_key_name: mine
- model_id: mine-completion
  model_name: run
  api_base: {keyed.url}/v1
  api_key_name: mine
  completion: true
""",
        encoding="utf-8",
    )
    (tmp_path / "keys.json").write_text(f'{{"mine": "{KEY}"}}', encoding="utf-8")
    # The command four times in one process: its start takes longer than a prompt.
    code = """
from llm.cli import cli
for name in ("mine", "mine-completion"):
    for words in ([], ["--no-stream"]):
        cli(["prompt", "-m", name, "-o", "seed", "3", *words, "an"], standalone_mode=False)
        print("=" * 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S,
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    expected = model.generate("an", seed=3)[2:]
    *found, rest = [text.strip() for text in done.stdout.split("=" * 9)]
    assert (done.returncode, found, rest) == (0, [expected] * 4, ""), done.stderr
