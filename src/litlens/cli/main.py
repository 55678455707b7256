"""The two commands, and their help, which is printed before anything else is imported."""

import sys

_TRAIN_HELP = """\
Train, test and measure a classifier of images.

  python train.py --config configs/mnist_cnn.yaml

  --config FILE           an experiment; repeat for overlays: the last wins
  --any.value VALUE       any value of it, such as --data.batch_size 128
  --devices N             how many GPUs (or processes) to train on
  --inspect               show counts, statistics and samples; train nothing
  --folds K               cross-validate: K runs, and a test of the best one
  --search FILE           try --trials N (20) values of options; test the best
  --resume RUN_DIR        resume an interrupted run
  --data.help NAME        the options of a data module, such as MNISTDataModule
  --model.help NAME       the options of a classifier, such as ImageClassifier
  --trainer.help          the options of Lightning's Trainer
  --version, --verbose    versions; full tracebacks

A run writes everything to runs/NAME/VERSION/: report.html, config.yaml,
splits.csv, checkpoints/, metrics.csv, predictions-test.csv, results.json, and
what TensorBoard shows:

  tensorboard --logdir runs --samples_per_plugin images=1000
"""

_EVALUATE_HELP = """\
Score checkpoints on labeled images; write report.html.

  python evaluate.py --ckpt_path runs/mnist_cnn/VERSION

  --ckpt_path RUN_DIR …   run folders, or checkpoint files; of two or more, each
                          is compared with the first: comparison.html
  --data.folder DIR, --data.any VALUE
                          other data, or other options of the run's data
  --split NAME            train, val, test or all: by default test, or all of
                          other data that have no test split
  --images PATH …         instead, classify files and folders without labels:
                          images-NAME/predictions.csv, .jsonl and images.html
  --export FILE           instead, write the classifier as FILE.onnx or FILE.pt2
  --robustness            also accuracy against shift, rotation, scale, blur,
                          noise and contrast
  --trust MODULE …        modules of your own that the checkpoint may import
  --output DIR            where the files go, instead of the run folder (of
                          several runs, the last one's)
  --accelerator NAME      cpu, gpu, … (auto)
  --devices N             how many (1)
  --version, --verbose    versions; full tracebacks
"""


def train(args: list[str] | None = None) -> None:
    """`python train.py …`: the exit status is 0, 1 after an error, 130 after Ctrl-C, or 143 after SIGTERM."""
    _run("litlens.cli.train", _TRAIN_HELP, args)


def evaluate(args: list[str] | None = None) -> None:
    """`python evaluate.py …`: exit statuses as for `train`."""
    _run("litlens.cli.evaluate", _EVALUATE_HELP, args)


def _run(module: str, help_text: str, given: list[str] | None) -> None:
    args = sys.argv[1:] if given is None else given
    if not args or "--help" in args or "-h" in args:
        sys.stdout.write(help_text)
        return
    from litlens.cli.execution import execute

    execute(module, args, ends_process=given is None)
