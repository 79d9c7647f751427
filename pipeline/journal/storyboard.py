"""`journal/storyboard.json`: the storyboard of a take, with the defaults of its model, for commands that change it."""

from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.names import redacted
from longtake.pipeline.spec import Storyboard, parse_storyboard

NAME = "journal/storyboard.json"


def put_storyboard(store: Store, storyboard: Storyboard) -> None:
    """Store the storyboard, unless one of its URLs holds a password."""
    text = storyboard.model_dump_json(by_alias=True, indent=1)
    if redacted(text) == text:
        store.put(NAME, text.encode())
    else:
        store.delete(NAME)


def read_storyboard(store: Store) -> Storyboard:
    """The storyboard of a take. Raises `SpecError` if it is not stored there."""
    try:
        text = store.get(NAME).decode()
    except FileNotFoundError:
        raise SpecError(
            f"{store.url} does not hold its storyboard, since an older version rendered it, or a URL in it has a"
            " password; name it with --storyboard film.yaml"
        ) from None
    return parse_storyboard(text, source=store.url_of(NAME))
