"""The table of docs/reliability.md, written from what the long tests of faults have tried.

    python -m bench.faults.reliability [--check]

`pytest --long tests/faults` adds to results/faults/reliability.json what each experiment tried, if
it passed. The table lies between `<!-- reliability -->` and `<!-- end -->`. --check writes nothing,
and exits with status 1 if the page differs from the record.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from bench.command import ROOT, command_parser
from bench.machine import read_result

PAGE = ROOT / "docs" / "reliability.md"
TABLE = re.compile(r"(<!-- reliability -->\n).*?(?=<!-- end -->)", re.DOTALL)
HEAD = "| experiment | tried | file in `tests/faults` |\n|---|---|---|\n"
# Test without its parameters → what it does, and its file
EXPERIMENTS = {
    "test_no_failing_call_loses_anything": (
        "Each system call of a run fails (EIO, ENOSPC, EDQUOT, EINTR), or kills the process",
        "test_system_calls.py",
    ),
    "test_after_any_power_cut_all_that_was_acknowledged_is_there": (
        "Each state of the disk that a power cut may leave after any system call of a run",
        "test_power_cut.py",
    ),
    "test_a_killed_run_ends_with_the_same_bits": (
        "Kill −9 one to three times at random moments, start-up and resumes included",
        "test_kill.py",
    ),
    "test_a_resume_from_any_step_ends_with_the_same_bits": (
        "Kill −9 after the save of each step, and resume", "test_resume_everywhere.py",
    ),
    "test_resumes_at_any_step_with_any_number_of_processes_take_the_same_rows": (
        "Stopped and resumed with as many processes (bit-identical) and with others (same rows)",
        "test_world_sizes.py",
    ),
    "test_a_run_under_any_limit_ends_with_one_line": (
        "Limits of the size of a file and of open files that grow until a run succeeds",
        "test_folders.py",
    ),
    "test_a_run_on_any_full_disk_ends_with_one_line": (
        "Disks that grow by 4 KB until a run succeeds", "test_folders.py",
    ),
    "test_a_folder_that_changes_at_any_moment_ends_its_run_with_one_line": (
        "The run folder moved or removed before each system call, or replaced between two writes",
        "test_folders.py",
    ),
    "test_the_folder_of_a_tensor_run_that_changes_ends_it_with_one_line": (
        "The same at random system calls, tensor engine", "test_folders.py",
    ),
    "test_of_two_writers_at_any_moment_one_is_refused": (
        "Two commands that train in one folder at once", "test_folders.py",
    ),
    "test_every_bit_and_every_length_of_a_checkpoint_is_verified": (
        "Each bit of a checkpoint changed, and each file cut to each length", "test_damage.py",
    ),
    "test_the_files_of_a_run_may_be_damaged_anywhere": (
        "Any file of a run damaged, and each of four commands run on it", "test_damage.py",
    ),
    "test_a_command_ends_with_one_line_under_any_limit_of_memory": (
        "Memory limits that grow by a megabyte until the command succeeds",
        "test_memory_limits.py",
    ),
    "test_every_hostile_value_of_each_option_gets_one_clear_line": (
        "Each option of each command with hostile values, by flag, variable and TOML",
        "test_hostile_options.py",
    ),
    "test_any_value_that_is_not_finite_stops_a_run_before_it_is_saved": (
        "NaN or an infinity in a batch, weight, gradient or optimizer state, on each engine",
        "test_nonfinite.py",
    ),
    "test_a_process_that_ends_or_hangs_at_any_moment_ends_the_other_and_the_run_goes_on": (
        "One of two processes killed, stopped or asked to stop at a random moment",
        "test_two_ranks.py",
    ),
    "test_odd_texts_and_paths_are_trained_on_or_refused_by_name": (
        "Odd texts, formats, names, links, devices and folders as `--data`", "test_odd_inputs.py",
    ),
    "test_a_huge_sparse_file_and_a_huge_line_take_bounded_memory_and_time": (
        "Sparse files of 10 GB and a line of 1 GB", "test_odd_inputs.py",
    ),
    "test_a_file_that_changes_at_any_moment_is_read_or_refused": (
        "A text that changes before any read of it", "test_odd_inputs.py",
    ),
    "test_twenty_runs_have_the_same_bits": (
        "The same run again", "test_determinism.py",
    ),
    "test_memory_descriptors_and_threads_do_not_grow": (
        "Long runs in which memory, descriptors and threads stay flat: steps, evaluations, samples",
        "test_soak.py",
    ),
    "test_no_input_breaks_a_reader": (
        "Each reader of files and the command line, with inputs drawn by coverage (atheris)",
        "../fuzz/test_fuzz.py",
    ),
    "test_no_input_breaks_a_kernel_or_a_program": (
        "Each C-ABI function and random scalar programs, with inputs drawn by coverage (libFuzzer)",
        "../fuzz/test_fuzz.py",
    ),
}  # fmt: skip


def rows(record: Mapping[str, Mapping[str, int]]) -> str:
    """Return the table of the experiments that the record has."""
    lines = []
    for name, (what, file) in EXPERIMENTS.items():
        counts: dict[str, int] = {}
        for test, tried in record.items():
            if test.partition("[")[0] == name:
                for unit, number in tried.items():
                    counts[unit] = counts.get(unit, 0) + number
        if counts:
            tried = ", ".join(
                f"{number:,} {unit.replace('_', ' ')}" for unit, number in counts.items()
            )
            lines.append(f"| {what} | {tried} | `{file}` |\n")
    return HEAD + "".join(lines)


def written(page: str) -> str:
    record = {k: v for k, v in read_result("faults/reliability").items() if k != "environment"}
    return TABLE.sub(lambda found: found[1] + rows(record), page)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    new = written(page)
    if check:
        sys.exit(int(new != page))
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
