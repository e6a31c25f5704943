"""Runs a notebook's cells one after the other, in this process, and can write what they show into it.

`python -m docs.notebooks.cells STORE NOTEBOOK …` runs notebooks on a store in place of `store/demo`, outputs kept.
"""

import ast
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def run(notebook: Path, store: str) -> dict[str, Any]:
    """The notebook with the outputs of its cells; a cell that fails raises what it raised."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    count = 0
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            source = "".join(cell["source"]).replace("store/demo", store)
            cell["outputs"], cell["execution_count"] = _outputs(source, names, count), count
    return document


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a cell prints, and the value of its last line if that is an expression."""
    body = ast.parse(source)
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with redirect_stdout(printed):
        exec(compile(body, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        found.append({"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": count})
    return found


if __name__ == "__main__":
    for name in sys.argv[2:]:
        document = run(Path(name), sys.argv[1])
        Path(name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
