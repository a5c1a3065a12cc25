"""How a GGUF adapter is put to use, and the Modelfile for Ollama. Both name the base, which is not part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorarlhf.data.chat import rendered, stop_texts
from lorarlhf.errors import DataError
from lorarlhf.export.origin import Origin
from lorarlhf.library import SavedAdapter
from lorarlhf.types import Message

_LOADING = """\
`adapter.gguf` is for llama.cpp and whatever is built on it, and wants {base} as a GGUF file. One in 16 or 8 bits is
nearest to the base it was trained on; llama.cpp's 4 bits are not those of bitsandbytes, so answers shift a little.
llama.cpp's converter makes one of the base's own files:

```bash
python convert_hf_to_gguf.py {source} --outfile {file}
llama-cli -m {file} --lora adapter.gguf
```

With Ollama, put that file into this folder, or name a model of Ollama's library with the same weights behind `FROM` in
`Modelfile`, and:

```bash
ollama create {name} -f Modelfile
ollama run {name}
```
"""

_MODELFILE = """\
# The base, {base}{revision}, as a GGUF file in this folder, or a model of Ollama's library with the same weights.
FROM ./{file}
ADAPTER ./adapter.gguf

# As it was trained: nothing is cut off, nothing is punished for being said twice.
PARAMETER temperature {temperature}
PARAMETER top_k 0
PARAMETER top_p 1.0
PARAMETER min_p 0.0
PARAMETER repeat_penalty 1.0
"""


def base_file(origin: Origin) -> str:
    """Make up the name of the base's GGUF file."""
    return f"{origin.name.rpartition('/')[2]}.gguf"


def loading(origin: Origin, name: str) -> str:
    """Write the section of the README."""
    revision = f" at revision `{origin.revision}`" if origin.revision else ""
    base = f"`{origin.name}`{revision}"
    return _LOADING.format(base=base, source="BASE_FOLDER", file=base_file(origin), name=name.lower())


def write_modelfile(saved: SavedAdapter, origin: Origin, folder: Path) -> None:
    """Write the Modelfile to the folder of an export."""
    text = _MODELFILE.format(
        base=origin.name,
        revision=f" at revision {origin.revision}" if origin.revision else "",
        file=base_file(origin),
        temperature=saved.card.get("settings", {}).get("temperature", 1.0),
    )
    tokenizer = _tokenizer(origin)
    stops = [origin.end[1]] if origin.end else []
    if tokenizer is not None:
        stops = list(dict.fromkeys([*stops, *stop_texts(tokenizer)]))
    text += "".join(f"PARAMETER stop {json.dumps(stop)}\n" for stop in stops)
    pieces = pieces_of(tokenizer) if tokenizer is not None else None
    text += (
        _NO_TEMPLATE
        if pieces is None
        else f'\n# What the adapter was trained on.\nTEMPLATE """{go_template(pieces)}"""\n'
    )
    (folder / "Modelfile").write_text(text, encoding="utf-8")


_NO_TEMPLATE = """
# The base's chat template cannot be written in Ollama's language: take the TEMPLATE that Ollama's library has for this
# base, or answers will not be those the adapter was trained to give.
"""

ROLES = ("system", "user", "assistant")
Pieces = dict[str, tuple[str, str]]
"""Role → what stands before and behind what it says; `answer` → where an answer begins, and nothing."""


def _tokenizer(origin: Origin) -> Any:
    from transformers import AutoTokenizer

    if origin.folder is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(origin.folder)
    except (OSError, ValueError, ImportError):  # the base's own code, or a package that is not here
        return None


def pieces_of(tokenizer: Any) -> Pieces | None:
    """Take a chat template apart into what it writes around each turn; None where turns are not written one by one.

    The mark that begins every text is left out: llama.cpp writes it itself.
    """

    def written(*turns: tuple[str, str], answer: bool = False) -> str:
        said: list[Message] = [{"role": role, "content": content} for role, content in turns]  # type: ignore[typeddict-item]
        return rendered(tokenizer, said, answer).removeprefix(tokenizer.bos_token or "")

    try:
        asked = written(("user", "U1"))
        found = {"user": _around(asked, "U1"), "answer": (written(("user", "U1"), answer=True).removeprefix(asked), "")}
        found["assistant"] = _around(written(("user", "U1"), ("assistant", "A1")).removeprefix(asked), "A1")
        found["system"] = _around(written(("system", "S1"), ("user", "U1")).removesuffix(asked), "S1")
        turns = [("system", "S2"), ("user", "U2"), ("assistant", "A2"), ("user", "U3")]
        whole = "".join(found[role][0] + text + found[role][1] for role, text in turns) + found["answer"][0]
        return found if whole == written(*turns, answer=True) else None
    except (DataError, ValueError):
        return None


def _around(text: str, said: str) -> tuple[str, str]:
    before, mark, behind = text.partition(said)
    if not mark:
        raise ValueError(f"{said} is not written")
    return before, behind


def go_template(pieces: Pieces) -> str:
    """Write a template for Ollama, which is one of Go's."""
    turns = "{{ else }}".join(
        f'{{{{ if eq .Role "{role}" }}}}{pieces[role][0]}{{{{ .Content }}}}{pieces[role][1]}' for role in ROLES
    )
    return "{{ range .Messages }}" + turns + "{{ end }}" * len(ROLES) + "{{ end }}" + pieces["answer"][0]
