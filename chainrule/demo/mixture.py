"""What the generated corpus is made of, in numbers that can be tuned. Knows no world."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mixture:
    """Shares are of the corpus's characters and need not sum to 1; the rest are probabilities unless said."""

    prose: float = 0.3  # share
    questions: float = 0.42  # share
    puzzles: float = 0.24  # share
    reviews: float = 0.06  # share

    several: float = 0.3  # prose is about 2 or 3 animals, not one
    denials: float = 0.1  # a fact is told as "is not green but brown"

    one_animal: float = 0.5  # all questions of a document are about one animal
    told: float = 0.3  # such a document begins with a paragraph of prose about that animal
    yes_no: float = 0.85  # a question is a yes/no question
    open_first: float = 0.8  # right before a yes/no question comes the open one on the same fact
    reasons: float = 0.5  # the answer yes or no is followed by the true value: "no, brown"

    puzzle_lengths: tuple[int, int] = (1, 9)  # fewest and most puzzles in a document
    meanings: tuple[float, ...] = (1, 1, 1, 1, 1, 1)  # relative frequency of each of puzzles.MEANINGS

    shuffle_polarity: bool = False  # a control: each adjective of a review has a polarity of its own

    def __post_init__(self) -> None:
        shares = (self.prose, self.questions, self.puzzles, self.reviews)
        if min(shares) < 0 or not 0 < sum(shares) < math.inf:
            raise ValueError(f"mixture: wanted shares of at least 0 and not all 0, got {shares}")
        for knob in ("several", "denials", "one_animal", "told", "yes_no", "open_first", "reasons"):
            if not 0 <= getattr(self, knob) <= 1:
                raise ValueError(f"mixture: wanted {knob} from 0 to 1, got {getattr(self, knob)}")
        if not 1 <= self.puzzle_lengths[0] <= self.puzzle_lengths[1] <= 300:
            raise ValueError(f"mixture: wanted puzzle_lengths (fewest, most) within 1..300, got {self.puzzle_lengths}")
        if len(self.meanings) != 6 or min(self.meanings) < 0 or not 0 < sum(self.meanings) < math.inf:
            raise ValueError(f"mixture: wanted 6 frequencies of meanings, at least 0, got {self.meanings}")


DEFAULT_MIXTURE = Mixture()
