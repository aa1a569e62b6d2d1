"""Finetuning: a linear head, alone or together with the model, trained on a task's labels. Knows rows, labels, files.

Shapes: N examples, C classes, D width.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from chainrule import machine
from chainrule.corpus.batches import share
from chainrule.errors import DataError, OptionError
from chainrule.finetuning.centred import HeadWeights
from chainrule.finetuning.classifier import Classifier, form_of, load_classifier
from chainrule.finetuning.folder import check_base, check_together, dtype_name, holds_weights, keep, open_together
from chainrule.finetuning.further import GOING_ON, going_on, head_hash, model_of
from chainrule.finetuning.language import LanguageFinetuning
from chainrule.finetuning.memory import Memory
from chainrule.finetuning.options import VALIDATED, By, Dtype, Train
from chainrule.finetuning.options import FinetuneOptions as FinetuneOptions
from chainrule.finetuning.problems import Computing, problem_of
from chainrule.finetuning.recipes import BATCH_SIZE, SMALL_BATCH, Recipe, lora_recipe, recipe
from chainrule.finetuning.trained import AllWeights, ClassifierTraining, numbers_trained, summary_of
from chainrule.language_model import Pretrained
from chainrule.model.formats.adapter import Base, adapter_parts, classifier_adapter
from chainrule.model.formats.adapter_files import Adapter
from chainrule.model.formats.classifier import without_output
from chainrule.model.padding import Tokens
from chainrule.model.quantised import refuse_quantised
from chainrule.model.transformer import Transformer
from chainrule.prompting.asking import Normalise
from chainrule.prompting.prompted import Prompted
from chainrule.scoring.features import Features, Text
from chainrule.scoring.longer import Longer
from chainrule.tasks.examples import Examples, Task
from chainrule.training.activations import tokens_in_memory
from chainrule.training.low_rank import ALPHA, RANK, LowRankMatrices, check_rank
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.sharding import decide_sharding, least_free_memory
from chainrule.training.trainer import Progress


def finetune(
    lm: Pretrained | Classifier,
    task: Task,
    *,
    train: Train = "full",
    labels: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    class_weights: bool = False,
    longer: Longer = "cut",
    seed: int = 0,
    dtype: Dtype = "auto",
    rank: int | None = None,
    by: By = "head",
    chat: bool = False,
    normalise: Normalise = "sum",
    out: str | Path | None = None,
    features: Features | None = None,
) -> Classifier | Prompted:
    """A predictor trained on `labels` of the task's training rows; `lm` itself does not change. A classifier in its
    place goes on from its head and weights, on rows with labels that it has.

    `by` "head" gives a classifier: a linear head w on the hidden states. `by` "words" gives the zero-shot predictor of
    a trained model: it maximises p(label word | prompt) among the task's label words. In a task of free answers the
    model learns these. `chat`: the prompt is written with the model's chat template. `normalise`: a label word's score
    is its log p in all, or per token or byte, in the training and in the predictor.

    `train` "head" solves for the head w alone; "full" starts from that and trains w and the model θ together; "lora"
    trains w and matrices of `rank` (16) beside the frozen model, and saves these alone, as PEFT does. With 64 labels or
    more, a stratified fifth of them is for validation, which chooses the best state. `out`: the folder that the
    predictor is saved to, and from which the same call continues if it was stopped. `features`: those of `lm`, for
    callers that use them again.

    Raises DataError for a task that lacks the prompt it needs, OptionError for options out of range, and FolderError
    for an `out` that holds something else.
    """
    options = FinetuneOptions(
        train, labels, epochs, learning_rate, class_weights, longer, seed, dtype, rank, by, chat, normalise
    )
    finetuning = open_finetuning(lm, task, options, out, features)
    for _ in finetuning.advance():
        pass
    return finetuning.predictor()


def open_finetuning(
    lm: Pretrained | Classifier,
    task: Task,
    options: FinetuneOptions,
    out: str | Path | None = None,
    features: Features | None = None,
    processes: Processes = ALONE,
    parallel: ParallelOptions = ParallelOptions(),
) -> "Finetuning | LanguageFinetuning":
    """The finetuning of these options, to be made step by step; parameters and errors as of `finetune`."""
    if isinstance(lm, Classifier):
        task = going_on(lm, task, options)
        return Finetuning(model_of(lm), task, options, out, features, processes, parallel, start=lm)
    saved = features is None or out is not None  # a head on features that are given may be kept without the model
    if options.train == "full" or (options.train == "head" and saved):
        refuse_quantised(lm.model, "finetune")
    if options.by == "words" and task.kind != "classification":
        raise OptionError(
            f"--by: wanted head, as a task of kind {task.kind!r} has no label words, got words; leave it out"
        )
    if options.by == "words" or task.kind == "free":
        return LanguageFinetuning(lm, task, options, out, processes, parallel)
    if options.chat:
        raise OptionError("--chat: wanted --by words beside it, as a head reads no prompt, got head; leave --chat out")
    return Finetuning(lm, task, options, out, features, processes, parallel)


class Finetuning:
    """The finetuning of a classifier with a head: iterate `advance`, then call `predictor`; `finetune` does it at once.

    Parameters and errors as there. The caller may stop at any step, after `save` if it is to be continued. All
    `processes` do the same, and the first one writes.
    """

    def __init__(
        self,
        lm: Pretrained,
        task: Task,
        options: FinetuneOptions = FinetuneOptions(),
        out: str | Path | None = None,
        features: Features | None = None,
        processes: Processes = ALONE,
        parallel: ParallelOptions = ParallelOptions(),
        start: Classifier | None = None,
    ) -> None:
        """`start`: the classifier whose model `lm` is, and whose head goes on."""
        self._processes, self._parallel, self._start = processes, parallel, start
        if task.kind == "free":
            raise DataError(f"finetune: wanted a task with labels to choose from, got one of kind {task.kind!r}")
        self.lm, self.form, self.options = lm, form_of(task, lm.model, lm.tokenizer), options
        self.out = None if out is None else Path(out)
        if options.train == "lora":
            check_base(lm, self.out)
        pairs = self.form.pair
        self._features = features or self._reader()
        examples = task.subset(options.labels, options.seed)
        batches = {"head": len(examples), "full": BATCH_SIZE, "lora": SMALL_BATCH}
        check_together(min(len(examples), batches[options.train]), processes)
        balanced = options.class_weights
        self.problem = problem_of(task, examples, lm.family, balanced=balanced, seed=options.seed)
        reads = [self.form.text, self.form.input, *(["pair"] if pairs else [])]
        reads += [] if start is None else [head_hash(start)]
        decided = open_together(lm, reads, examples, options, self.out, processes, parallel)
        self._training: ClassifierTraining | None = None
        if options.train != "head" and not self.finished:
            self._training = self._prepare(task, examples, decided.precision)
        self._examples = examples

    @property
    def finished(self) -> bool:
        """Whether `out` holds the classifier already."""
        return self._processes.from_first(holds_weights(self.out))

    @property
    def batch_size(self) -> int:
        """Texts a step of "full" and "lora"."""
        return 0 if self._training is None else self._training.batch_size

    def advance(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each; "head" has none."""
        if self._training is not None:
            yield from self._training.trainer.steps()

    def shown(self, count: int) -> list[str]:
        """`count` training texts as tokens; of a head nothing in them is marked, as only their labels are learned."""
        texts = self._texts(self._examples.take(range(min(count, len(self._examples)))))
        return ["|".join(self.lm.tokenizer.token_texts(tokens.tolist())) for tokens in self._reader().tokens(texts)]

    def save(self) -> None:
        """Write a checkpoint to `out`, from which the same finetuning continues."""
        if self._training is not None:
            self._training.trainer.save()

    def predictor(self) -> Classifier:
        """The trained classifier; it is saved to `out`, where that was given."""
        if self.finished:
            assert self.out is not None
            return load_classifier(self.out, device=self.lm.device.type, dtype=dtype_name(self.lm.model.dtype))
        if self._training is None:
            head = self._solved(self._examples)
            classifier = self._classifier(self._features, head, None)
        else:
            assert self._training.trainer.finished, "steps are left"
            model, head = self._training.result()
            head = head.times(self.problem.unit)
            features = Features(model, self.lm.tokenizer, longer=self.options.longer, pairs=self.form.pair)
            features.cut = self._cut
            trained = self._training.trained
            adapter = self._adapter(trained, head) if isinstance(trained, LowRankMatrices) else None
            classifier = self._classifier(features, head, adapter)
        keep(classifier, self.out, self._processes)
        return classifier

    def _classifier(self, features: Features, head: HeadWeights, adapter: Adapter | None) -> Classifier:
        problem = self.problem
        return Classifier(
            features, head.w, problem.outputs, self.form, self.lm.family, adapter, problem.kind, head.bias
        )

    def _adapter(self, trained: LowRankMatrices, head: HeadWeights) -> Adapter | None:
        """What is saved in place of the model; None for one that no file holds."""
        if self.lm.path is None:
            return None
        base = Base(self.lm.model, self.lm.family, self.lm.path, self.lm.quantize)
        bare = without_output(self.lm.model)
        problem = self.problem
        return classifier_adapter(
            base, bare, trained.adapters, head.w, tuple(problem.outputs), trained.rank, ALPHA, problem.kind, head.bias
        )

    def _prepare(self, task: Task, examples: Examples, dtype: torch.dtype) -> ClassifierTraining:
        """w and what is trained beside it, from θ̂ and the w that is best with it."""
        validating = examples.take([])
        if len(examples) >= VALIDATED:
            examples, validating = task.split_validation(examples, self.options.seed)
        reader = self._reader()
        train, validation = (
            self.problem.texts(reader.tokens(self._texts(part)), part.labels) for part in (examples, validating)
        )
        self._cut, bare = reader.cut, reader.model
        documents, shard = [*train.documents, *validation.documents], self._shards(bare)
        memory = Memory(self.options, bare, len(validation) > 0, self._processes)
        trained = self._what_is_trained(bare, documents, memory)
        transformer, longest = trained.transformer, max(map(len, documents))
        transformer.compute_dtype = dtype
        at_once = self._tokens_at_once(transformer, longest, dtype, self._processes.world if shard else 1)
        memory.check_steps(transformer, partial(summary_of, transformer), at_once, longest)
        made = self._recipe(len(train), bare.config.width)
        return ClassifierTraining(
            trained,
            self._solved(examples).times(1 / self.problem.unit),
            self.problem.objective(train, made, Computing(at_once, bare.device)),
            validation,
            made,
            dtype,
            self.out and self.out / "training",
            self._processes,
            shard,
        )

    def _shards(self, bare: Transformer) -> bool:
        """Whether the weights are cut over the processes. OptionError where that is asked for and cannot be."""
        asked, train = self._parallel.shard, self.options.train
        if train != "full" and asked != "on":
            return False
        shard = decide_sharding(asked, bare, bare.config.width, self.lm.device, self._processes)
        if shard and train == "lora":
            raise OptionError(
                "--shard on: wanted --train full beside it, got lora, whose frozen model every process holds whole;"
                " take --shard off"
            )
        return shard

    def _what_is_trained(
        self, bare: Transformer, documents: Sequence[Tokens], memory: Memory
    ) -> AllWeights | LowRankMatrices:
        """OptionError where there is no memory for a copy of the weights, and for a rank above the width."""
        if self.options.train == "lora":
            check_rank(self.options.rank, bare)
            parts = adapter_parts(bare, self.lm.family)
            return LowRankMatrices(bare, parts, self.options.rank or RANK, self.options.seed)
        memory.check_copies(numbers_trained(bare, documents))
        return AllWeights(bare, documents)

    def _recipe(self, n: int, width: int) -> Recipe:
        """For n texts; where the user names no rate, it is multiplied by the problem's factor, and by that of going on
        from a classifier."""
        options, make = self.options, lora_recipe if self.options.train == "lora" else recipe
        made = make(n, width, epochs=options.epochs, learning_rate=options.learning_rate, seed=options.seed)
        if options.learning_rate is not None:
            return made
        factor = self.problem.rate_factor * (1.0 if self._start is None else GOING_ON)
        return dataclasses.replace(made, rate=factor * made.rate, head_rate=factor * made.head_rate)

    def _tokens_at_once(self, transformer: Transformer, longest: int, dtype: torch.dtype, parts: int) -> int:
        """How many tokens of texts of up to `longest` are computed together, the weights being in `parts` parts."""
        # Frozen weights are converted to bfloat16 once, not for each part of a batch: small parts then cost nothing.
        converted = dtype if self.options.train == "full" else None
        return tokens_in_memory(
            self._parallel.checkpoint_activations,
            transformer,
            machine.tokens_at_once("finetuning", transformer.device, converted),
            longest,
            dtype,
            least_free_memory(transformer.device, self._processes),
            parts,
        )

    def _reader(self) -> Features:
        """Reads texts as the classifier does, and counts those that it cuts."""
        return Features(self.lm.model, self.lm.tokenizer, longer=self.options.longer, pairs=self.form.pair)

    def _texts(self, examples: Examples) -> list[Text]:
        return [self.form(row) for row in examples.rows]

    def _solved(self, examples: Examples) -> HeadWeights:
        """The head on the model's features, of which each process computes those of some texts; or that which goes
        on."""
        if self._start is not None:
            return HeadWeights(self._start.w, self._start.bias)
        processes, texts = self._processes, self._texts(examples)
        mine = self._features(texts[share(len(texts), processes.rank, processes.world)])
        features = processes.concatenated(torch.from_numpy(mine), len(texts))
        head = self.problem.solve(features.numpy(), examples.labels)
        sent = processes.sent_by_first  # the same bits in all of them
        return HeadWeights(sent(head.w), None if head.bias is None else sent(head.bias))
