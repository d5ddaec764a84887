"""What a generator's bundle says of dialogues: how pictures and words become positions, and when an answer ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from edgevlm.bundle.spec import Pixels, Resample, TokenId
from edgevlm.schema import Quantity

ENCODE_IMAGE, EMBED_TOKENS, DECODE = "encode_image", "embed_tokens", "decode"
"""The components of a model that talks."""
EMBEDDINGS, POSITIONS, LOGITS = "embeddings", "positions", "logits"
"""What `decode` takes, rows of words and pictures, and where each stands; and what it answers, as `classify` does."""
LONGEST_EDGE = 4096
"""Of a scaled picture, in pixels, where its longer side decides how it is cut."""
MOST_TILES = 256
"""Of a grid."""
ENDED, SHOWN, ASKED = "ended", "shown", "asked"
"""What `decode` keeps beside keys and values: where a picture ended, if rows behind it stand nearer than their slots
say; where one was shown, if rows before it do not see it; where the question stands, if an answer sees it alone."""
FEATURES = "features"
"""What `encode_image` answers where pictures stand among words: rows like these."""
Count = Annotated[int, Quantity(least=1)]


@dataclass(frozen=True)
class Turn:
    """Literal text around what somebody says.

    Attributes:
        before, after: The text.
    """

    before: str
    after: str


@dataclass(frozen=True)
class Chat:
    """A chat template, as literal text: what a dialogue is written out with, turn after turn, is these pieces alone.

    Attributes:
        begin: What a dialogue without a system text begins with.
        system: Around the system text, which comes first; with it, `begin` is left out.
        user: Around a question without pictures.
        user_with_picture: Around a question with one picture, whose place is in `before`, as `Spelling.token`; where
            pictures are not spelled, as a model that answers one question may leave it, the same as `user`.
        assistant: Around an answer that was given; None for a model that answers one question, since format 4.0.
        ask: What stands behind the last question, for the answer to go on from.
    """

    begin: str
    system: Turn | None
    user: Turn
    user_with_picture: Turn
    assistant: Turn | None
    ask: str


@dataclass(frozen=True)
class Grid:
    """Which grids of tiles a picture may be scaled to: the one whose proportions are nearest to its own.

    Of several that are as near, the first is that of the fewest tiles, and of those the one of the fewest columns;
    each further one takes its place if its tiles have less than twice as many pixels as the picture.

    Attributes:
        least, most: Number of tiles, beside the whole.
    """

    least: Count
    most: Count


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into square tiles, which are encoded one by one; the whole, as small as a tile, comes last.

    The picture is scaled so that its longer side has `longest_edge` pixels, at most 4,096; then so that both sides are
    multiples of `tile`; then cut. Or it is scaled to a grid of tiles, and the whole anew from the picture. A picture of
    one tile is not cut, and there is no second whole of it.

    Attributes:
        longest_edge: Of the first scaling, in pixels; of a grid, at most.
        tile: Side of a tile.
        resample: Pillow's filter of all scalings.
        cuts: Whether it is cut at all; if not, the picture of the first scaling becomes one tile.
        grid: The grids; None where the longer side decides, and always so before format 3.0.
    """

    longest_edge: Pixels
    tile: Pixels
    resample: Resample
    cuts: bool = True
    grid: Grid | None = field(default=None, metadata={"since": "2.2"})

    @property
    def most(self) -> int:
        """Tiles of a picture at most, beside the whole; 0 where none is cut."""
        if not self.cuts:
            return 0
        side = -(-min(self.longest_edge, LONGEST_EDGE) // self.tile)
        most = side * side if self.grid is None else self.grid.most
        return most if most > 1 else 0


@dataclass(frozen=True)
class Spelling:
    """How a picture stands in a text: `positions` times `token` for each tile, and literal text around these.

    Attributes:
        token: What stands for one row of a picture's features; in a written-out dialogue, for a picture.
        token_id: Its id.
        positions: Rows of one tile, or of a picture that is not cut; 1 where `encode_image` answers no features.
        tile: Text before each tile, in which `{row}` and `{column}` stand for its place, counted from 1.
        end_of_row: Text behind each row of tiles.
        end_of_tiles: Text behind the last row of tiles.
        whole: Text around the picture as a whole.
    """

    token: str
    token_id: TokenId
    positions: Count
    tile: str
    end_of_row: str
    end_of_tiles: str
    whole: Turn


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits, where nobody says otherwise.

    >>> warm = edgevlm.Sampling(temperature=0.7, top_p=0.9)  # model.generate("photo.jpg", sampling=warm, seed=1)
    >>> warm.top_k, edgevlm.Sampling().temperature
    (0, 0.0)

    Attributes:
        temperature: Logits are divided by it; 0 takes the largest.
        top_k: How many of the largest logits are candidates; 0 takes all.
        top_p: The least number of the most probable tokens whose probabilities add up to it are candidates.
    """

    temperature: Annotated[float, Quantity(least=0)] = 0.0
    top_k: Annotated[int, Quantity(least=0)] = 0
    top_p: Annotated[float, Quantity(above=0)] = 1.0


@dataclass(frozen=True)
class Dialogue:
    """How pictures and words become the positions of a generator.

    Attributes:
        context_length: Positions that the state holds: pictures, words and answer together.
        begin_ids: Ids that come before those of the text.
        chat: How a dialogue is written out; None for a model that goes on from a text, such as a captioner.
        spelling: How a picture stands in the text; None where pictures take no positions.
        tiling: How a picture is cut; None where it is not.
        end_ids: Ids that end an answer.
        describe: What is asked where nothing is.
        sampling: How the next token is chosen.
        tokenizer_file: Path of the `tokenizer.json`.
    """

    context_length: Count
    begin_ids: tuple[TokenId, ...]
    chat: Chat | None
    spelling: Spelling | None
    tiling: Tiling | None
    end_ids: tuple[TokenId, ...]
    describe: str
    sampling: Sampling
    tokenizer_file: str
