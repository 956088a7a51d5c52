"""Which checkpoints are removed, and that no cut in the middle loses the last good one."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs.saved_checkpoints import damage, names, save

from nanochat.config.keep import Keep
from nanochat.errors import OutputError
from nanochat.runs.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    mark_best,
    newest_checkpoint,
    remove_checkpoint,
)
from nanochat.runs.retention import prune_checkpoints


def steps_in(directory):
    return sorted(int(n.removeprefix("step-")) for n in names(directory) if n.startswith("step-"))


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(0, 99), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(1, 6)),
    st.data(),
)
def test_the_newest_ones_the_best_and_one_that_verifies_stay(tmp_path_factory, steps, last, data):
    directory = tmp_path_factory.mktemp("checkpoints")
    paths = {step: save(directory, step) for step in sorted(steps)}
    best = data.draw(st.one_of(st.none(), st.sampled_from(sorted(steps))))
    if best is not None:
        mark_best(paths[best], 1.0)
    broken = data.draw(st.sets(st.sampled_from(sorted(steps))))
    for step in broken:
        damage(paths[step])
    removed = prune_checkpoints(directory, Keep(last))
    whole = steps - broken
    stay = steps
    if last is not None and whole:
        damaged = {step for step in steps if step > max(whole)}
        stay = set(sorted(steps - damaged)[-last:]) | damaged | {best} - {None}
    assert steps_in(directory) == sorted(stay)
    assert removed == [paths[step] for step in sorted(steps - stay)]
    if whole:
        assert newest_checkpoint(directory)[0].trainer.step == max(whole)


def test_a_folder_that_was_just_written_is_not_read_again(tmp_path, monkeypatch):
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    monkeypatch.setattr(
        "nanochat.runs.checkpoint.load_checkpoint", lambda path: pytest.fail(f"read {path}")
    )
    assert prune_checkpoints(tmp_path, Keep(1), whole=paths[2]) == paths[:2]


def test_a_directory_that_is_not_there_has_nothing_to_remove(tmp_path):
    assert prune_checkpoints(tmp_path / "gone", Keep(1)) == []


def test_a_cut_between_or_inside_removals_leaves_whole_checkpoints(tmp_path, monkeypatch):
    paths = [save(tmp_path, step) for step in (1, 2, 3, 4)]
    mark_best(paths[2], 1.0)
    rmtree, calls = shutil.rmtree, []

    def cut_at_the_second(path, **options):
        calls.append(path)
        if len(calls) == 2:
            (path / "weights.safetensors").unlink()
            raise KeyboardInterrupt
        rmtree(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prune_checkpoints(tmp_path, Keep(1), whole=paths[3])
    assert steps_in(tmp_path) == [3, 4]
    for step in (3, 4):
        load_checkpoint(tmp_path / f"step-{step:06d}")
    save(tmp_path, 5)
    assert names(tmp_path) == ["best", "step-000003", "step-000004", "step-000005"]


def test_a_folder_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    path = save(tmp_path, 1)

    def refuse(source, target):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OutputError) as caught:
        remove_checkpoint(path)
    assert str(caught.value) == f"cannot write {path}: Permission denied; choose a writable out"
    assert find_checkpoint(tmp_path.parent, str(path)).trainer.step == 1
