"""RANK and WORLD_SIZE of the environment: what they mean and which values are refused."""

from __future__ import annotations

import time

import pytest

from nanochat.errors import ConfigError
from nanochat.system import processes


@pytest.fixture
def environment(monkeypatch):
    def set_all(**values):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def refusal(function) -> str:
    with pytest.raises(ConfigError) as caught:
        function()
    return str(caught.value)


def test_without_variables_there_is_one_process(environment):
    environment()
    assert (processes.rank(), processes.world(), processes.local_rank()) == (0, 1, 0)


def test_the_variables_of_torchrun_are_read(environment):
    environment(RANK="3", WORLD_SIZE="4", LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    assert (processes.rank(), processes.world(), processes.local_rank()) == (3, 4, 1)
    processes.check_rendezvous()


@pytest.mark.parametrize("text", ["", " ", "abc", "-1", "1.5", "1e3", "٣", "²", "9" * 30])
@pytest.mark.parametrize(
    ("name", "function", "least"),
    [("RANK", processes.rank, 0), ("WORLD_SIZE", processes.world, 1),
     ("LOCAL_RANK", processes.local_rank, 0)],
)  # fmt: skip
def test_another_text_than_a_number_is_refused_by_name_rule_and_value(
    environment, name, function, least, text
):
    environment(**{name: text})
    assert refusal(function) == (
        f"{name} must be a whole number of at least {least}, got {text!r}; start the processes with"
        f" torchrun, or unset {name}"
    )


def test_a_world_of_no_processes_is_refused(environment):
    environment(WORLD_SIZE="0")
    assert refusal(processes.rank).startswith("WORLD_SIZE must be a whole number of at least 1")


def test_a_rank_outside_the_world_is_refused(environment):
    environment(RANK="1")
    assert refusal(processes.rank) == (
        "RANK must be below WORLD_SIZE, got RANK 1 and WORLD_SIZE 1 (not set); start the processes"
        " with torchrun, or unset both"
    )
    environment(RANK="2", WORLD_SIZE="2")
    assert "got RANK 2 and WORLD_SIZE 2;" in refusal(processes.rank)


def test_a_world_without_a_rank_is_refused(environment):
    environment(WORLD_SIZE="2")
    assert refusal(processes.rank).startswith("RANK must be set where WORLD_SIZE is, got WORLD_SIZ")


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_several_processes_need_an_address(environment, missing):
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    environment(**{**values, missing: ""})
    assert refusal(processes.check_rendezvous) == (
        f"{missing} must be set where WORLD_SIZE is above 1, got WORLD_SIZE 2 without it; start the"
        " processes with torchrun, or unset WORLD_SIZE"
    )


@pytest.mark.parametrize("address", ["no-such-host.invalid", "a" * 300])
def test_an_address_that_names_no_machine_is_refused(environment, address):
    environment(RANK="0", WORLD_SIZE="2", MASTER_ADDR=address, MASTER_PORT="1")
    message = refusal(processes.check_rendezvous)
    assert message.startswith(
        f"MASTER_ADDR must name a machine that can be found, got {address!r}:"
    )
    assert message.endswith("; start the processes with torchrun")


@pytest.mark.parametrize(
    ("values", "copy"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, False),  # on another machine
        ({"RANK": "x", "WORLD_SIZE": "2"}, False),
    ],
)
def test_a_copy_is_above_rank_0_on_its_machine(environment, values, copy):
    environment(**values)
    assert processes.is_copy() == copy


@pytest.mark.parametrize(
    "values", [{"RANK": "1"}, {"WORLD_SIZE": ""}, {"RANK": "0", "WORLD_SIZE": "x"}]
)
def test_a_wrong_environment_is_one_error_line_of_the_command(
    environment, values, refused, folder, tiny, flags
):
    environment(**values)
    assert "torchrun" in refused("train", *flags(**tiny()), "--quiet")


def test_the_age_of_a_process_grows(environment):
    first = processes.age_s()
    time.sleep(0.02)
    assert 0 < first < processes.age_s()
