"""A tokenizer from elsewhere (`--tokenizer DIR|REPO`), taken over after its vocabulary was proved to be the GGUF's."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from migrate.errors import BadInput, MigrateError, NotFound, Refused
from migrate.findings import Finding, Status
from migrate.gguf.header import GGUFHeader
from migrate.gguf.vocab import CONTROL, UNKNOWN, UNUSED, read_vocabulary

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_SPACE = "▁"


def adopt_tokenizer(given: str, header: GGUFHeader, out_dir: Path) -> tuple[list[str], list[Finding]]:
    """Copy the tokenizer `given` (a directory, or a repository of the Hub) into `out_dir`; names written and a finding.

    Raises:
        NotFound: no such directory or repository, or no tokenizer.json in it.
        Refused: an id stands for another text than in the GGUF; names the first.
        MigrateError: the Hub cannot be asked.
    """
    with ExitStack() as stack:
        directory = Path(given)
        if not directory.is_dir():
            directory = _download(given, Path(stack.enter_context(TemporaryDirectory())))
        if not (directory / FILES[0]).is_file():
            raise NotFound(f"{given}: no {FILES[0]} in it", hint="Save it with transformers: save_pretrained(DIR).")
        tokenizer = load(directory / FILES[0])
        count = check_same_vocabulary(tokenizer, header, given)
        names = [name for name in FILES if (directory / name).is_file()]
        for name in names:
            shutil.copyfile(directory / name, out_dir / name)
    reason = f"as asked with --tokenizer; all {count:,} ids stand for the same texts as in the GGUF"
    return names, [Finding("tokenizer", Status.EQUIVALENT, str(header.get("tokenizer.ggml.pre", "")), given, reason)]


def load(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises BadInput when it is none."""
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise BadInput(f"{path}: not a tokenizer: {str(error)[:200]}") from None
    return tokenizer


def check_same_vocabulary(tokenizer: Tokenizer, header: GGUFHeader, name: str) -> int:
    """Every id of the GGUF stands for the same text; padding may be missing. Returns the number of ids compared.

    Raises Refused naming the first that differs.
    """
    vocabulary = read_vocabulary(header, known_pre=False)
    known = {i: text for text, i in tokenizer.get_vocab(with_added_tokens=True).items()}
    compared = 0
    for i, text in enumerate(vocabulary.tokens):
        special = vocabulary.types[i] in (CONTROL, UNKNOWN, UNUSED)
        if vocabulary.model == "wpm" and not special:
            text = text[1:] if text.startswith(_SPACE) else f"##{text}"
        if i not in known and is_padding(text):
            continue
        if known.get(i) != text:
            raise Refused(
                f"{name}: id {i} is {known.get(i)!r}, in the GGUF it is {text!r}: another model's tokenizer",
                hint="Give the tokenizer of the model that was converted.",
            )
        compared += 1
    return compared


def adds_bos(tokenizer: Tokenizer, header: GGUFHeader) -> bool:
    """Whether BOS comes in front: what the GGUF says, else what the tokenizer does."""
    explicit = header.get("tokenizer.ggml.add_bos_token")
    if isinstance(explicit, bool):
        return explicit
    ids = tokenizer.encode("a").ids
    return bool(ids) and ids[0] == header.get("tokenizer.ggml.bos_token_id")


def is_padding(text: str) -> bool:
    return bool(re.fullmatch(r"\[(PAD|EMPTY_|DOUBLE_|unused)\d*\]|<\|?(unused|reserved|dummy|extra)[\w|]*>", text))


def _download(repo: str, target: Path) -> Path:
    if not _REPO.fullmatch(repo):
        raise NotFound(f"{repo}: no such directory, and no name of a repository (OWNER/NAME)")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MigrateError(
            f"{repo}: asking the Hub needs huggingface-hub", hint="pip install 'ollama-to-vllm[hub]'"
        ) from None
    try:
        return Path(snapshot_download(repo, allow_patterns=list(FILES), local_dir=target))
    except LocalEntryNotFoundError:
        raise MigrateError(f"{repo}: the Hub cannot be reached", hint="Give a directory instead.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise MigrateError(f"{repo}: the Hub refuses access ({status})", hint="huggingface-cli login") from None
        raise NotFound(f"{repo}: the Hub answers {status or error}") from None
