"""`nanochat serve` before it listens: what it refuses, and what it prints."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess

import httpx
import pytest
from serving.server import KEY, WAIT_S

import nanochat
from nanochat.commands.serve import client_line
from nanochat.serving.server import is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_a_host_that_others_reach_needs_a_key(host, names, refused):
    assert refused("serve", str(names), f"--host={host}") == (
        f"host {host} can be reached by others and needs an api_key; set NCLAB_API_KEY, or leave"
        " host out"
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("localhost.evil.example", False), ("10.0.0.1", False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected


def test_a_port_in_use_is_refused_before_the_weights_are_loaded(refused, folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused("serve", "no-such-run", f"--port={port}") == (
            f"port {port} of 127.0.0.1 cannot be used: Address already in use; give another with"
            " --port, or 0 for a free one"
        )


def test_an_address_of_another_machine_is_refused_by_name(refused, folder):
    words = ("--host=203.0.113.5", "--port=0", "--api-key=k")  # an address for documents
    assert refused("serve", "no-such-run", *words) == (
        "host 203.0.113.5 is not an address of this machine; give one such as 127.0.0.1"
    )
    assert refused("serve", "no-such-run", "--host=no.such.invalid", *words[1:]).startswith(
        "host no.such.invalid cannot be found: "
    )


@pytest.mark.parametrize("key", ["", "a b", "ä", "a\tb"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(key, refused, monkeypatch, folder):
    monkeypatch.setenv("NCLAB_API_KEY", key)
    assert refused("serve") == "api_key must be letters, digits and signs of ASCII without spaces"


def test_a_run_that_does_not_exist_is_refused(refused, folder):
    assert refused("serve", "nothing", "--port=0", code=1) == (
        "no run nothing here or in runs; train one first with `nanochat train`"
    )


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_its_packages_serve_names_the_extra(package, python, names):
    code = (
        f"import sys\nsys.modules[{package!r}] = None\nfrom nanochat.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = python("-c", code, "serve", names, "--port=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: serve needs the packages starlette and uvicorn; pip install 'nanochat-lab[serve]'\n"
    )


def test_other_commands_never_import_the_packages_of_serve(python, names):
    code = (
        "import sys\nfrom nanochat.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "assert not {'starlette', 'uvicorn', 'asyncio'} & set(sys.modules)\n"
    )
    done = python("-c", code, "sample", names, "--mode=scalar")
    assert done.returncode == 0, done.stderr


def test_the_line_that_serve_prints_can_be_pasted(keyed):
    """Without --json: where it serves, and a line for a shell."""
    line = client_line(keyed.url, has_key=True)
    done = subprocess.run(
        ["bash", "-c", line.replace("curl ", "curl -s --noproxy '*' ")],
        env={"NCLAB_API_KEY": KEY, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=WAIT_S,
    )  # fmt: skip
    assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "stop", done.stderr


def test_a_server_without_json_prints_where_it_serves(names, python):
    """The server ends at once: its first signal comes before it listens."""
    code = (
        "import os, signal, sys\nfrom nanochat.cli import main\nfrom nanochat.serving import server\n"
        "server._Server.on_tick = lambda self, counter: done()\n"
        "async def done(): return True\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = python("-c", code, "serve", names, "--port=0")
    first, second = done.stdout.splitlines()
    checkpoint = nanochat.load(names).checkpoint
    assert first.startswith(f"serving {checkpoint} at http://127.0.0.1:")
    url = first.rpartition(" ")[2]
    assert second == (
        f"curl {url}/v1/completions -H 'content-type: application/json' -d"
        """ '{"prompt": "", "max_tokens": 100}'"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_address_of_ipv6_is_served_or_refused_by_name(start, names, refused):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:  # a machine without IPv6
        assert refused("serve", str(names), "--host=::1", "--port=0").startswith(
            ("host ::1 is not an address of this machine; ", "port 0 of ::1 cannot be used: ")
        )
        return
    server = start(names, "--host=::1")
    assert server.url.startswith("http://[::1]:")
    assert httpx.get(f"{server.url}/health", timeout=WAIT_S).json() == {"status": "ok"}


def test_the_function_serves_in_a_thread_and_tells_its_address(python, names):
    """The process ends, and the server with it."""
    code = """
import json, queue, sys, threading, urllib.request
import nanochat
urls = queue.Queue()
config = nanochat.ServeConfig(run=sys.argv[1], port=0)
threading.Thread(
    target=nanochat.serve, args=(config,), kwargs={"on_listening": urls.put}, daemon=True
).start()
url = urls.get(timeout=60)
body = json.dumps({"prompt": "an", "seed": 3}).encode()
print(json.load(urllib.request.urlopen(f"{url}/v1/completions", body))["choices"][0]["text"])
"""
    done = python("-c", code, names)
    expected = nanochat.load(names).generate("an", seed=3)[2:]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")


def test_a_thread_with_a_running_event_loop_is_refused(names):
    async def notebook():
        nanochat.serve({"run": str(names), "port": 0})

    with pytest.raises(nanochat.NanochatError) as refused:
        asyncio.run(notebook())
    assert str(refused.value) == (
        "serve needs a thread without a running event loop, and a notebook has one; run it in"
        " threading.Thread(target=nanochat.serve, args=(config,), daemon=True)"
    )
