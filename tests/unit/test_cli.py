"""What a user can get wrong is one sentence with the remedy on standard error, exit code 2, and never a traceback."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest

from mpispec.models.default import resolve
from mpispec.serve.text.opening import open_template

pytestmark = pytest.mark.unit

LAUNCHERS = ("OMPI_", "PMI_", "MPI_LOCAL", "SLURM_")
PROMPT = ("--prompt", "Hello")


def mpispec(*argv: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program without mpirun."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return forked.run(argv, stdin, {**inherited, **(env or {})}, seconds=60.0)


def refusal(argv: Sequence[str], stdin: str = "", env: dict[str, str] | None = None) -> str:
    """Run what cannot be; return the one sentence."""
    done = mpispec(*argv, stdin=stdin, env=env)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    found = re.fullmatch(r"mpispec: ([^\n]+)\n", done.stderr)
    assert found, done.stderr
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files that cannot be models or prompts."""
    folder = tmp_path_factory.mktemp("bad")
    whole = resolve(None).read_bytes()
    (folder / "header-cut.gguf").write_bytes(whole[:100_000])
    (folder / "weights-cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "text.gguf").write_text("once upon a time")
    (folder / "empty.gguf").touch()
    (folder / "giant.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62))
    (folder / "empty.txt").touch()
    (folder / "latin.txt").write_bytes("größer".encode("latin-1"))
    return folder


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.gguf", "There is no model file .*; check the path"),
        ("header-cut.gguf", "damaged or not complete: .*; download it again"),
        ("weights-cut.gguf", "damaged or not complete: .*; download it again"),
        ("text.gguf", "not a GGUF file; name a model in GGUF format"),
        ("empty.gguf", "download it again"),
        ("giant.gguf", "download it again"),
        ("", "holds no config.json; name a folder as Hugging Face publishes it"),
    ],
)
@pytest.mark.parametrize("option", ["--model", "--draft"])
def test_files_that_are_no_models_are_refused(folder: Path, option: str, name: str, sentence: str) -> None:
    assert re.search(sentence, refusal(["generate", *PROMPT, option, str(folder / name)]))


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("0:0-9,0:11-29", "leaves out layer 10; every layer needs a place"),
        ("0:1-29", "leaves out layer 0; "),
        ("0:0-9", "leaves out layers 10-29; "),
        ("0:0-9,0:9-29", "has layer 9 twice or out of order; write it as"),
        ("0:0-30", "goes to layer 30, but the model's last layer is 29"),
        ("7:0-29", "names rank 7, so start at least 8 ranks or name a lower one"),
        ("garbage", "has 'garbage', which is no layer range: write it as"),
        ("0:9-0,0:10-29", "has the empty range 9-0; "),
        ("0:0-29,0:draft", "places a draft, but no draft model is given; add --draft"),
        (",", "which is no layer range: write it as"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(layout: str, sentence: str) -> None:
    said = refusal(["generate", *PROMPT, "--layout", layout])
    assert said.startswith("--layout ")
    assert sentence in said


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--prompt", ""], "The prompt is empty; give some text"),
        (["--file", "{folder}/empty.txt"], "The prompt is empty; give some text"),
        ([], "The prompt is empty; give some text"),
        (["--file", "{folder}/missing.txt"], "cannot be read from .* (No such file or directory); name a text file"),
        (["--file", "{folder}"], "cannot be read from .* (Is a directory); name a text file"),
        (["--file", "{folder}/latin.txt"], "is not UTF-8 text; convert it"),
        (["--file", "{folder}/latin.txt", *PROMPT], "with --prompt or with --file, not with both"),
        (["--prompt", "one two three four", "--ctx", "4"], "The prompt has 4 tokens and the context 4: shorten"),
        ([*PROMPT, "--ctx", "9000"], "--ctx 9000 is more than the 8192 positions .*; use --ctx 8192 or less"),
        ([*PROMPT, "--trace", "{folder}/missing/out.json"], "cannot be written to .* (No such file .*); name a file"),
        ([*PROMPT, "--drafter", "oracle:2"], "needs an acceptance rate from 0 to 1, like oracle:0.8"),
        ([*PROMPT, "--drafter", "oracle:often"], "needs an acceptance rate from 0 to 1, like oracle:0.8"),
        ([*PROMPT, "--proposer", "oracle:2"], "needs an acceptance rate from 0 to 1, like oracle:0.8"),  # its old name
        ([*PROMPT, "--drafter", "oracle"], "needs an acceptance rate from 0 to 1, like oracle:0.8"),
        (
            [*PROMPT, "--drafter", "magic"],
            r"is none of draft, exit, ngram, draft\+ngram, exit\+ngram, oracle:H and none",
        ),
        ([*PROMPT, "--drafter", "exit"], "needs a stage that drafts; name one with --exit"),
        ([*PROMPT, "--exit", "1"], "needs a stage before the last one, and there is one stage; start more ranks"),
        ([*PROMPT, "--drafter", "draft"], "needs a draft model; name one with --draft"),
        (
            [*PROMPT, "--balance", "--layout", "0-29"],
            "--balance finds out where layers go and --layout says it; give one",
        ),
        ([*PROMPT, "--device", "cpu"], "--dtype, --device, .* are for Hugging Face models on torch; leave them out"),
        ([*PROMPT, "--quantization", "int8"], "--quantization .* are for Hugging Face models on torch; leave them out"),
        ([*PROMPT, "--trust-remote-code"], "--trust-remote-code are for Hugging Face models on torch; leave them out"),
        ([*PROMPT, "--cascade", "a.gguf,,b.gguf"], "names no model in one place; write it as M0.gguf,M1.gguf"),
        ([*PROMPT, "--cascade", "a.gguf", "--draft", "b.gguf"], "with --draft or with --cascade, not with both"),
        ([*PROMPT, "--other-form", "{folder}/missing.gguf"], "There is no model file {folder}/missing.gguf"),
        ([*PROMPT, "--cascade", "{folder}/missing.gguf"], "There is no model file {folder}/missing.gguf"),
    ],
)
def test_impossible_requests_are_refused(folder: Path, argv: list[str], sentence: str) -> None:
    said = refusal(["generate", *(each.format(folder=folder) for each in argv)])
    expected = sentence.format(folder=folder).replace("(", r"\(").replace(")", r"\)")
    assert re.search(expected, said), said


def test_a_draft_with_another_vocabulary_is_refused(folder: Path) -> None:
    model = resolve(None).read_bytes()
    word = struct.pack("<Q", 4) + "Ġthe".encode()[:4]
    changed = model.replace(word, struct.pack("<Q", 4) + "ĠTHE".encode()[:4], 1)
    assert changed != model
    other = folder / "other.gguf"
    other.write_bytes(changed)
    assert "use a draft of the same model family" in refusal(["generate", *PROMPT, "--draft", str(other)])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("temperature", "nan"), ("top-p", "nan"), ("min-p", "nan"), ("repeat-penalty", "1e-40"), ("top-k", "2147483648")],
)
@pytest.mark.parametrize("command", ["generate", "serve"])
def test_impossible_sampling_is_refused(command: str, flag: str, value: str) -> None:
    done = mpispec(command, f"--{flag}", value)
    assert done.returncode == 2
    assert f"Invalid value for '--{flag}': " in done.stderr


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--host", "0.0.0.0"], "needs a key: give --api-key"),
        (["--host", "192.0.2.1", "--api-key", "k"], "not an address of this machine; choose another with --host"),
        (["--host", "no such host", "--api-key", "k"], "cannot be found .*; choose another with --host"),
        (["--drafter", "oracle:0.5"], "a server does not have; use generate"),
        (["--api-key-file", "/no/such/keys"], "cannot be read .*; name a text file of keys, one a line"),
        (["--cors-origin", "*"], "every web page in, so the server needs a key"),
        (["--allow-host", "*"], "by any name, so the server needs a key"),
        (["--per-key", "2"], "there is none; give --api-key-file"),
        (["--tls-cert", "/no/such/cert"], "give --tls-cert and --tls-key"),
        (
            ["--tls-cert", "/no/such/cert", "--tls-key", "/dev/null"],
            "--tls-cert .* cannot be read .*; name a file in PEM",
        ),
        (["--port", "0", "--chat-template", "/no/such/template"], "cannot be read .* chatml, or a file"),
    ],
)
def test_impossible_servers_are_refused(argv: list[str], sentence: str) -> None:
    assert re.search(sentence, refusal(["serve", *argv]))


@pytest.mark.parametrize("argv", [["serve", "--port", "0"], ["generate", "--chat", *PROMPT]])
def test_a_broken_chat_template_is_refused(folder: Path, argv: list[str]) -> None:
    model = resolve(None).read_bytes()
    broken = model.replace(b"{% for message in messages %}", b"{% foe message in messages %}", 1)
    assert broken != model
    path = folder / "template.gguf"
    path.write_bytes(broken)
    said = refusal([*argv, "--model", str(path)])
    assert re.match(r"The model's chat template is unusable \(.* unknown tag 'foe'.*\); prompt without it\.", said)


@pytest.mark.parametrize("value", ["{", "[]", '{"messages": []}'])
def test_impossible_names_for_the_template_are_refused(value: str) -> None:
    done = mpispec("serve", "--chat-template-kwargs", value)
    assert done.returncode == 2
    assert "Invalid value for '--chat-template-kwargs': " in done.stderr


def test_another_chat_template_may_be_chosen(tmp_path: Path) -> None:
    vocabulary = SimpleNamespace(chat_template="{% foe %}", bos=None, eos=None)
    chat = [{"role": "user", "content": "Hi"}]
    assert open_template(vocabulary, "chatml").render(chat).startswith("<|im_start|>user\nHi")
    (tmp_path / "template").write_text("{{ messages[0].content }}!")
    assert open_template(vocabulary, str(tmp_path / "template")).render(chat) == "Hi!"
    assert open_template(vocabulary, "chatml").note == ""


def test_a_missing_chat_template_is_reported() -> None:
    template = open_template(SimpleNamespace(chat_template=None, bos=None, eos=None))
    template.render([{"role": "user", "content": "Hi"}])
    assert "no chat template; ChatML is used" in template.note


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert f"Port {port} on 127.0.0.1 is in use; " in refusal(["serve", "--port", port])


@pytest.mark.parametrize("command", [["inspect"], ["cut", "--parts", "2"]])
def test_other_commands_refuse_what_is_no_model(folder: Path, command: list[str]) -> None:
    assert "not a GGUF file" in refusal([*command, str(folder / "text.gguf")])


def test_a_folder_for_parts_that_cannot_be_made_is_refused(folder: Path) -> None:
    out = folder / "text.gguf" / "new"
    said = refusal(["cut", "--parts", "2", "--out", str(out)])
    assert said == f"Cannot write a model part to {out}: Not a directory; name a writable folder with --out."


def test_output_that_nobody_reads_ends_the_program_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = "from mpispec.runtime.process import joined\nwith joined():\n    print('text', flush=True)"
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=env, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_more_parts_than_layers_are_refused(folder: Path) -> None:
    assert "use between 1 and 30" in refusal(["cut", "--parts", "31", "--out", str(folder)])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, {"OMPI_COMM_WORLD_RANK": "1"}),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, {"PMI_RANK": "1"}),
    ],
    ids=["openmpi", "hydra"],
)
def test_ranks_without_peers_end_with_one_sentence(first: dict[str, str], second: dict[str, str]) -> None:
    """Either variables are those of another MPI's launcher or of one that the process cannot reach."""
    pytest.importorskip("mpi4py")
    assert "does not belong to the installed MPI" in refusal(["generate", *PROMPT], env=first)
    stray = mpispec("generate", *PROMPT, env={**first, **second})
    assert (stray.returncode, stray.stdout, stray.stderr) == (2, "", "")
