"""The network as one C99 file, model.c, that writes texts; of a scalar run, also one that trains.

The file holds the weights and the tokens. Its code is model.c in this folder. train.c is the
program that the scalar engine has recorded, as Program.to_c() writes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanochat.data.bpe import BpeTokenizer
from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.tokenizer import CharTokenizer
from nanochat.errors import ExportError, MissingDependency, UnsupportedOption
from nanochat.exporting.network import Known, Network, Run

__all__ = ["KNOWN", "MOST_PARAMETERS", "load_and_run", "write"]

KNOWN: Known = {
    "model_kind": ("bigram", "mini-gpt"), "model_file": (None,), "activation": ("relu", "relu2"),
    "positions": ("learned", "rope"), "prev_token_tables": (0,), "hash_embed_rows": (0,),
    **dict.fromkeys(
        ("n_layer", "n_head", "n_embd", "block_size", "hash_embed_longest", "ngram_order",
         "tie_lm_head", "input_rmsnorm", "output_rmsnorm", "qk_norm", "logit_softcap")
    ),
}  # fmt: skip

MOST_PARAMETERS = 5_000_000  # of which the file has some 60 MB and a compiler needs a minute
MODEL, TRAINER = "model.c", "train.c"
_CODE = Path(__file__).parent / MODEL
_LAYERS = ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")


def write(network: Network, folder: Path, weights: str) -> None:
    """Write model.c with weights of type f32, and train.c of a scalar run.

    Raises UnsupportedOption for word pieces and a network that a compiler would take long for.
    """
    if isinstance(plain_tokenizer(network.tokenizer), BpeTokenizer):
        raise UnsupportedOption("c needs tokenizer char or byte, got bpe; export to another format")
    parameters = sum(array.size for array in network.weights.values())
    if parameters > MOST_PARAMETERS:
        raise UnsupportedOption(
            f"c needs a network of at most {MOST_PARAMETERS:,} parameters, got {parameters:,};"
            " export to another format"
        )
    with open(folder / MODEL, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(_parts(network))
        file.write(_CODE.read_text(encoding="utf-8"))
    if network.program is not None:
        (folder / TRAINER).write_text(network.program, encoding="utf-8", newline="\n")


def _parts(network: Network) -> Iterator[str]:
    config, weights = network.config, network.weights
    is_gpt = config.model_kind == "mini-gpt"
    defines: dict[str, object] = {
        "VOCAB_SIZE": network.tokenizer.vocab_size,
        "N_LAYER": config.n_layer,
        "N_HEAD": config.n_head if is_gpt else 1,
        "N_EMBD": config.n_embd,
        "BLOCK_SIZE": config.block_size,
        "ROPE": int(is_gpt and config.positions == "rope"),
        "LEARNED": int("wpe" in weights),
        "QK_NORM": int(config.qk_norm),
        "INPUT_NORM": int(config.input_rmsnorm),
        "OUTPUT_NORM": int(config.output_rmsnorm),
        "SQUARED": int(config.activation == "relu2"),
        "SOFTCAP": f"{config.logit_softcap}f",
        "OPENS_WITH_BOS": int(network.opens_with_bos),
        "FIRST_TOKEN": network.first_token,
    }
    yield "/* A network that nanochat has trained, as a C99 program. */\n"
    yield from (f"#define {name} {value}\n" for name, value in defines.items())
    texts = _texts(network)
    lengths = ",".join(str(len(text)) for text in texts)
    yield f"static const unsigned char token_bytes[] = {{{lengths}}};\n"
    yield "static const char *const token_text[] = {\n"
    yield from (f'"{_escaped(text)}",\n' for text in texts)
    yield "};\n"
    yield from _array("wte", network.embedding)
    yield from _array("wpe", weights.get("wpe", np.zeros((1, 1), np.float32)))
    if config.tie_lm_head:
        yield "#define head wte\n"
    else:
        yield from _array("head", network.head)
    for name in _LAYERS:
        yield from _layers(name, [weights[f"layer{i}.{name}"] for i in range(config.n_layer)])


def _texts(network: Network) -> list[bytes]:
    """Return the bytes of each token by id; none of BOS and of special tokens."""
    tokenizer = plain_tokenizer(network.tokenizer)
    if isinstance(tokenizer, CharTokenizer):
        texts = [character.encode() for character in tokenizer.characters]
    else:
        texts = [bytes([byte]) for byte in range(256)]
    return [b"", *texts, *[b""] * (network.tokenizer.vocab_size - tokenizer.vocab_size)]


def _escaped(text: bytes) -> str:
    return "".join(rf"\{byte:03o}" for byte in text)


def _array(name: str, array: NDArray[np.float32]) -> Iterator[str]:
    yield f"static const float {name}[] = {{\n"
    yield from _rows(array)
    yield "};\n"


def _layers(name: str, matrices: Sequence[NDArray[np.float32]]) -> Iterator[str]:
    size = matrices[0].size if matrices else 1
    yield f"static const float {name}[{max(len(matrices), 1)}][{size}] = {{\n"
    for matrix in matrices or [np.zeros((1, 1), np.float32)]:
        yield "{"
        yield from _rows(matrix)
        yield "},\n"
    yield "};\n"


def _rows(array: NDArray[np.float32]) -> Iterator[str]:
    """Yield the numbers with the nine digits that give each float32 back."""
    for row in array.tolist():
        yield ",".join(f"{value:.9g}" for value in row) + ",\n"


def load_and_run(
    folder: Path,
    rows: NDArray[np.int64],  # (rows, length)
    texts: Sequence[str],
) -> Run:
    """Compile the file and run it. Raises MissingDependency without a C compiler."""
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "model"
        source = str(folder / MODEL)
        words = [*compiler.split(), "-std=c99", "-O2", source, "-o", str(program), "-lm"]
        compiled = subprocess.run(words, capture_output=True, text=True)
        if compiled.returncode:
            said = compiled.stderr[:200].strip()
            raise ExportError(f"{compiler} does not compile the file: {said}; nothing was kept")
        given = "\n".join(" ".join(map(str, row)) for row in rows.tolist()) + "\n"
        done = subprocess.run([program, "--logits"], input=given, capture_output=True, text=True)
        if done.returncode:
            raise ExportError(
                f"the file, compiled by {compiler}, ends with status {done.returncode}; nothing was"
                " kept"
            )
    logits = np.array(done.stdout.split(), dtype=np.float64).reshape(*rows.shape, -1)
    return Run(program=f"C, compiled by {compiler}", logits=logits, ids=None)


def _compiler() -> str:
    """Return the words that call a C compiler. Raises MissingDependency without one."""
    named = os.environ.get("CC", "").split()
    found = next(filter(shutil.which, named[:1] or ("cc", "gcc", "clang")), None)
    if found is None:
        names = f"{named[0]}, which the variable CC names," if named else "cc, gcc or clang"
        raise MissingDependency(
            f"export to c is verified with a C compiler, and no {names} was found; install one, or"
            " give --no-verify"
        )
    return " ".join(named) or found
