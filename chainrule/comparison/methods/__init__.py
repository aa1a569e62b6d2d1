"""The methods that are compared, in the order in which tables list them. Adding one is a file and a row here."""

from chainrule.comparison.methods.bag_of_words import BAG_OF_WORDS
from chainrule.comparison.methods.centroid import CENTROID
from chainrule.comparison.methods.finetuned import FULL, HEAD
from chainrule.comparison.methods.lora import LORA
from chainrule.comparison.methods.majority import MAJORITY
from chainrule.comparison.methods.prompted import IN_CONTEXT, IN_CONTEXT_NEAREST, ZERO_SHOT
from chainrule.comparison.methods.random_weights import RANDOM_WEIGHTS
from chainrule.comparison.methods.tuned import ANSWERS, ANSWERS_LORA, WORDS, WORDS_LORA

METHODS = (
    ZERO_SHOT,
    IN_CONTEXT,
    IN_CONTEXT_NEAREST,
    CENTROID,
    HEAD,
    LORA,
    FULL,
    WORDS_LORA,
    WORDS,
    ANSWERS_LORA,
    ANSWERS,
    MAJORITY,
    BAG_OF_WORDS,
    RANDOM_WEIGHTS,
)
