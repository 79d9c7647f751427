"""`longtake init`: a commented storyboard to start from."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("storyboard.yaml"),
    json_schema: Annotated[
        bool,
        typer.Option("--json-schema", help="Print the JSON Schema of storyboards, for editors, and write no file."),
    ] = False,
) -> None:
    """Write a commented storyboard to start from."""
    from longtake.pipeline.errors import SpecError
    from longtake.pipeline.spec import STORYBOARD_TEMPLATE, Storyboard

    if json_schema:
        from longtake.jobs.feedback import print_json

        print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Storyboard.model_json_schema()})
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STORYBOARD_TEMPLATE)
    except FileExistsError:
        raise SpecError(f"{path} already exists; name another file, or remove it first") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error}") from error
    typer.echo(f"Wrote {path}. Next: longtake render {path} -o OUT --dry-run")
