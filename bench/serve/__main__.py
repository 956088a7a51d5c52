"""`nanochat serve`: its start, one stream, 64 streams, and clients that abuse it.

    python -m bench.serve --text FILE [--rounds 5] [--tokens 4000] [--streams 64] [--abuse 600]
        [--clients 200] [--llama-python PYTHON] [--check] [-- TRAINING OPTIONS]

A run is trained on the text as one document. Compared are, in turn:

- the start up to listening, with a process that loads the same run and ends;
- one stream, and `LanguageModel.generate`, which `sample` runs, in another process;
- 64 streams at one time, with 64 rows of the decoder and their draws, without text and HTTP;
- with --llama-python, each of these four figures with llama.cpp's at the same number of texts: the
  same run, exported in float32, in the process of llama_worker.py, without text and HTTP. It needs
  `-- --portable`, the package gguf, and llama_cpp in that other Python.

Texts of both sides must be equal; with llama.cpp, the likeliest ones. p99 is that of the time
between two parts of a stream. Then `--clients` clients come for `--abuse` seconds: some ask for
texts, others hang up, send nonsense, half a request, too much, or leave during their reply. Memory
and open files of the server are those before and after. Writes results/serve/serve.json, or
llama.json with --llama-python, unless --check, which is for a look.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.command import command_parser, module_command, module_environment
from bench.machine import write_result
from bench.serve.client import Served, abuse, streams
from bench.serve.llama import Llama, export

HOW = {"temperature": 1.0}
REPEATS = 3  # of which the fastest counts


def train(text: Path, out: Path, words: list[str]) -> None:
    done = subprocess.run(
        module_command(
            "nanochat", "train", text, "--mode=tensor", "--documents=file", "--num-samples=0",
            "--quiet", f"--out={out}", *words,
        ),
        env=module_environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        sys.exit("error: the run could not be trained")


def alone(run: Path, rows: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Return what bench.serve.alone prints: seconds and texts without a server."""
    done = subprocess.run(
        module_command("bench.serve.alone", run, rows, tokens, repeats),
        env=module_environment(), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def requests_of(rows: int, tokens: int) -> list[dict[str, Any]]:
    return [{"seed": seed, "max_tokens": tokens, **HOW} for seed in range(rows)]


def measure_streams(run: Path, options: argparse.Namespace, llama: Llama | None) -> dict[str, Any]:
    record: dict[str, list[float]] = {
        name: []
        for name in (
            "load_s", "listening_s", "one", "sample", "many", "decoder", "p99_of_median",
            "llama_one", "llama_many",
        )
    }  # fmt: skip
    setups: dict[str, Any] = {}
    for _ in range(options.rounds):
        by_itself = alone(run, options.streams, options.tokens, REPEATS)
        if llama is not None:
            start = by_itself["start"]
            likeliest = llama.greedy(start)
            assert likeliest == by_itself["greedy"][: len(likeliest)], "the tokens must be equal"
            for name, rows in (("llama_one", 1), ("llama_many", options.streams)):
                found = llama.rate(start, rows, REPEATS)
                record[name].append(found["tokens_per_s"])
                setups[name] = found["setup"]
        record["load_s"].append(by_itself["load_s"])
        record["sample"].append(by_itself["sample_tokens_per_s"])
        record["decoder"].append(by_itself["decoder_tokens_per_s"])
        with Served(run, f"--max-tokens={max(options.tokens, 4096)}") as served:
            record["listening_s"].append(served.listening_s)
            streams(served.port, requests_of(1, options.tokens))  # the first one reads the weights
            best = 0.0
            for _ in range(REPEATS):
                (one,), took = streams(served.port, requests_of(1, options.tokens))
                assert one.text == by_itself["text"], "the server must write the text of sample"
                best = max(best, one.tokens / took)
            record["one"].append(best)
            many, took = streams(served.port, requests_of(options.streams, options.tokens))
            assert many[0].text == by_itself["text"], "no text may depend on the others"
            record["many"].append(sum(each.tokens for each in many) / took)
            gaps = sorted(
                later - earlier
                for each in many
                for earlier, later in zip(each.parts_s, each.parts_s[1:], strict=False)
            )
            if gaps:
                p99 = gaps[min(int(len(gaps) * 0.99), len(gaps) - 1)]
                record["p99_of_median"].append(p99 / statistics.median(gaps))
    result: dict[str, Any] = {
        name: statistics.median(values) for name, values in record.items() if values
    }
    result["listening_beyond_loading_s"] = result["listening_s"] - result["load_s"]
    pairs = [("one", "sample"), ("many", "decoder")]
    if llama is not None:
        result |= {"llama": llama.versions, "llama_setups": setups}
        pairs += [(name, "llama_one") for name in ("one", "sample")]
        pairs += [(name, "llama_many") for name in ("many", "decoder")]
    for name, other in pairs:
        result[f"{name}_of_{other}"] = statistics.median(
            ours / theirs for ours, theirs in zip(record[name], record[other], strict=True)
        )
    return result


def told(record: dict[str, Any], count: int) -> str:
    """Return the figures of all streams in words."""
    text = (
        f"listening {record['listening_beyond_loading_s']:.2f} s beyond loading;"
        f" one stream {record['one']:,.0f} tokens/s, {record['one_of_sample']:.2f} of sample;"
        f" {count} streams {record['many']:,.0f} tokens/s,"
        f" {record['many_of_decoder']:.2f} of the decoder;"
        f" p99 {record.get('p99_of_median', 0):.1f} of the median\n"
    )
    if "llama" not in record:
        return text + "llama.cpp: not measured, which takes --llama-python"
    return text + (
        f"llama.cpp: one text {record['llama_one']:,.0f} tokens/s, of which sample has"
        f" {record['sample_of_llama_one']:.1f} and one stream {record['one_of_llama_one']:.1f}"
        f" times as many; {count} texts {record['llama_many']:,.0f} tokens/s, of which the decoder"
        f" has {record['decoder_of_llama_many']:.1f} and {count} streams"
        f" {record['many_of_llama_many']:.1f} times as many"
    )


def measure_abuse(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    with Served(run) as served:
        asked = requests_of(4, 50)
        found, _ = streams(served.port, asked)
        good = list(zip(asked, (each.text for each in found), strict=True))
        abuse(served.port, good, options.clients, min(options.abuse, 10))  # what is opened once
        before = served.resident_bytes(), served.files()
        counts = abuse(served.port, good, options.clients, options.abuse)
        final, _ = streams(served.port, asked[:1])
        after = served.resident_bytes(), served.files()
        assert served.process.poll() is None, "the server must not end"
    assert final[0].text == good[0][1]
    return {
        "seconds": options.abuse, "clients": options.clients, "counts": dict(counts),
        "resident_mb": [value / 1e6 for value in (before[0], after[0])],
        "files": [before[1], after[1]],
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4000, help="of each stream")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--abuse", type=float, default=600.0, help="seconds; 0: none")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--llama-python", help="interpreter that has llama_cpp")
    parser.add_argument("--check", action="store_true", help="record nothing")
    parser.add_argument("train", nargs="*", help="after --: options of nanochat train")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        train(options.text.absolute(), run, options.train)
        with ExitStack() as peers:
            llama = None
            if options.llama_python:
                file = export(run, Path(folder, "exported"))
                llama = peers.enter_context(Llama(options.llama_python, file, options.tokens))
            record = measure_streams(run, options, llama)
        print(told(record, options.streams))
        if options.abuse:
            record["abuse"] = measure_abuse(run, options)
            print(json.dumps(record["abuse"]))
    if not options.check:
        given = {"text": options.text.name, "options": options.train, "tokens": options.tokens}
        name = "serve/llama" if options.llama_python else "serve/serve"
        print("wrote", write_result(name, {**given, **record}))


if __name__ == "__main__":
    main()
