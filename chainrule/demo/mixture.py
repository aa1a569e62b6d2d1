"""Of what the generated corpus is mixed, as numbers that can be tuned. Knows no world."""

import math
from dataclasses import dataclass

from chainrule.errors import ChainruleError


@dataclass(frozen=True)
class Mixture:
    """Shares are of the corpus's characters and need not sum to 1; the rest are probabilities unless a comment says
    otherwise."""

    prose: float = 0.21  # share
    questions: float = 0.41  # share
    puzzles: float = 0.33  # share
    reviews: float = 0.05  # share

    denials: float = 0.1  # a fact is worded as "is not green but brown"

    one_animal: float = 0.5  # all questions of a document are about one animal
    yes_no: float = 0.75  # a question is a yes/no question
    popular: float = 1.5  # yes/no questions are about an attribute's k-th value with the weight k ** -popular
    reasons: float = 0.5  # the answer yes or no is followed by the true value: "no, brown"

    puzzle_lengths: tuple[int, int] = (4, 9)  # fewest and most puzzles in a document
    swapped: float = 0.4  # the next pair of numbers is the last one reversed
    meanings: tuple[float, ...] = (1, 1.5, 1, 1, 1.5, 1.5)  # relative frequency of each of puzzles.MEANINGS

    shuffle_polarity: bool = False  # a control: each adjective of a review has a polarity of its own

    def __post_init__(self) -> None:
        shares = (self.prose, self.questions, self.puzzles, self.reviews)
        if min(shares) < 0 or not 0 < sum(shares) < math.inf:
            raise ChainruleError(f"mixture: wanted shares of at least 0 and not all 0, got {shares}")
        for name in ("denials", "one_animal", "yes_no", "reasons", "swapped"):
            if not 0 <= getattr(self, name) <= 1:
                raise ChainruleError(f"mixture: wanted {name} from 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.popular < math.inf:
            raise ChainruleError(f"mixture: wanted popular of at least 0, got {self.popular}")
        if not 1 <= self.puzzle_lengths[0] <= self.puzzle_lengths[1] <= 200:
            raise ChainruleError(
                f"mixture: wanted puzzle_lengths (fewest, most) within 1..200, got {self.puzzle_lengths}"
            )
        if len(self.meanings) != 6 or min(self.meanings) < 0 or not 0 < sum(self.meanings) < math.inf:
            raise ChainruleError(f"mixture: wanted 6 frequencies of meanings, at least 0, got {self.meanings}")


DEFAULT_MIXTURE = Mixture()
