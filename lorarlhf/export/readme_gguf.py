"""How a GGUF adapter is put to use, and the Modelfile for Ollama. Both name the base, which is not part of it."""

from __future__ import annotations

from pathlib import Path

from lorarlhf.export.origin import Origin
from lorarlhf.library import SavedAdapter

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
    if origin.end:
        text += f'PARAMETER stop "{origin.end[1]}"\n'
    (folder / "Modelfile").write_text(text, encoding="utf-8")
