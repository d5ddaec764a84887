"""`edgevlm index` and `search`: finds pictures by words, or by another picture."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgevlm.commands.options import PATH, Whole, as_json, refuse_unwritable, threads
from edgevlm.errors import InputError


@click.command()
@click.argument("folder", type=PATH)
@click.option("--bundle", type=PATH, required=True, help="The bundle that embeds the pictures.")
@click.option("--out", type=PATH, required=True, help="The index's file; one that is there is brought up to date.")
@click.option(
    "--codes", type=click.Choice(["int8", "binary", "float32"]), default="int8", show_default=True,
    help="What an embedding is kept as: a byte, a bit or four bytes a number.",
)  # fmt: skip
@threads
@as_json
def index(folder: Path, bundle: Path, out: Path, codes: str, threads: int | None, as_json: bool) -> None:
    """Embed all pictures below FOLDER, for edgevlm search.

    Given again, the same command embeds what is new or changed, and goes on where it was stopped. Pictures that cannot
    be read are named at the end, and the exit code is 2; the others are in the index. Above 100,000 pictures usearch
    is needed, which finds them without comparing each: pip install 'edgevlm[search]'.

    What each kind of code keeps of float32 search on your pictures: edgevlm evaluate --index.

    \b
    Examples:
      edgevlm index photos/ --bundle B.edgevlm --out photos.index
      edgevlm index photos/ --bundle B.edgevlm --out photos.index --codes binary
    """
    from edgevlm import api
    from edgevlm.commands import pictures, showing
    from edgevlm.inference.index import FORMS, write
    from edgevlm.process import interrupts, terminal

    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of pictures, found {'a file' if folder.exists() else 'nothing'}")
    refuse_unwritable(out)
    with terminal.progress_bar() as progress, interrupts.advice("the same command goes on from here"):
        given = pictures.read_given([str(folder)])
        names = [Path(path).relative_to(folder).as_posix() for path in given.paths]
        progress("opening the bundle", None)
        with api.open(bundle, threads=threads) as model:
            done = write(out, folder, names, model, FORMS[FORMS.index(codes)], progress)
    showing.notes(model.bundle)
    unreadable = {str(folder / name): error for name, error in done.unreadable.items()}
    if as_json:
        found = {
            "index": str(out),
            "pictures": len(done.index.names),
            "embedded": done.embedded,
            "dropped": done.dropped,
            "codes": done.index.form,
            "embedding_space_id": done.index.space,
        }
        terminal.print_json(found | pictures.told(given, unreadable))
    else:
        dropped = f", {done.dropped:,} dropped" if done.dropped else ""
        terminal.say(f"{out}: {len(done.index.names):,} pictures, {done.embedded:,} embedded now{dropped}")
    pictures.refuse_unreadable(unreadable, len(names))


@click.command()
@click.argument("index", type=PATH)
@click.argument("text", required=False)
@click.option("--picture", type=PATH, help="Find pictures like this one, in place of TEXT.")
@click.option("--count", type=Whole(), default=10, show_default=True, help="How many to find.")
@click.option("--bundle", type=PATH, help="Where the bundle is now; left out, where it was for edgevlm index.")
@threads
@as_json
def search(
    index: Path,
    text: str | None,
    picture: Path | None,
    count: int,
    bundle: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find the pictures in INDEX that fit TEXT best, or are most like another picture.

    \b
    Examples:
      edgevlm search photos.index "a dog on a beach"
      edgevlm search photos.index --picture beach.jpg --count 20 --json
    """
    from edgevlm import api
    from edgevlm.commands import showing
    from edgevlm.inference.index import load
    from edgevlm.process import terminal

    if (text is None) == (picture is None):
        raise InputError(f"expected TEXT or --picture, got {'neither' if text is None else 'both'}")
    with terminal.progress_bar() as progress:
        progress("reading the index", None)
        opened = load(index)
        where = opened.bundle if bundle is None else bundle
        if not where.exists():
            raise InputError(f"{index}: its bundle {where} is not there", hint="--bundle BUNDLE says where it is")
        with api.open(where, threads=threads) as model:
            space = model.bundle.manifest.embedding.space_id
            if space != opened.space:
                raise InputError(
                    f"{index}: expected a bundle of its embedding space {opened.space}, got {space} of {where}",
                    hint="give --bundle the one that it was made with, or make the index again with edgevlm index",
                )
            query = model.encode_image([picture]) if picture is not None else model.encode_text([text or ""])
        found = opened.search(query, count)
    showing.notes(model.bundle)
    if text is not None and model.tokenizer is not None:
        showing.cut_text(text, model.tokenizer)
    pairs = zip(found.places[0].tolist(), found.scores[0].tolist(), strict=True)
    ranked = [(_shown(opened.path(place)), cosine) for place, cosine in pairs]
    changed = [_shown(opened.path(place)) for place in found.places[0].tolist() if opened.changed(place)]
    kind, asked = ("picture", str(picture)) if text is None else ("text", text)
    showing.ranking(asked, ranked, {"index": str(index), kind: asked, "changed": changed} if as_json else None)
    if changed:
        rest = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        terminal.say(
            f"gone, or changed since they were embedded: {', '.join(changed[:3])}{rest}; edgevlm index brings {index} "
            "up to date",
            err=True,
        )


def _shown(path: Path) -> str:
    """A path from the current folder on, where it is below that."""
    here = Path(os.getcwd())
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
