"""What `lit-cv --help` prints, without importing anything heavy."""

from lit_cv.running.recipes import recipe_table

__all__ = ["VERBS", "overview"]

VERBS = {
    "fit": "train a model",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
    "predict": "write a checkpoint's predictions to predictions.csv",
    "find-lr": "train for some steps at rising learning rates, and draw the loss",
    "knn": "validate a checkpoint's features by their nearest neighbours",
    "convert": "turn annotations of one format into another",
    "agreement": "tell how far several annotators agree",
    "kfold": "train and judge a fresh model for each fold of the training images",
    "compare": "measure learning approaches against each other over numbers of labels",
    "curves": "draw the training curves of several runs over each other",
    "export": "write a checkpoint as a program for torch and ONNX, and as safetensors",
    "recipes": "list the shipped configurations",
}


def overview() -> str:
    """Return the help of the program as a whole."""
    verbs = "\n".join(f"  {verb:<10}{purpose}" for verb, purpose in VERBS.items())
    return f"""usage: lit-cv VERB [options]

Learning approaches for computer vision.

verbs:
{verbs}

of every verb:
  --trust MODULE  import this module of your own (`--trust my_callbacks`), so that a checkpoint or a configuration may
                  name its classes; they name nothing else but classes of lit_cv and Lightning

recipes (for --config):
{recipe_table(indent="  ")}

examples:
  lit-cv fit --config supervised
  lit-cv fit --config supervised --data ImageFolderDataModule --data.root photos --model.backbone resnet18
  lit-cv find-lr --config supervised
  lit-cv test --ckpt_path best
  lit-cv kfold --config supervised --folds 5
  lit-cv compare                          approaches on handwritten digits, in a few minutes
  lit-cv fit --ckpt_path last             continue the newest run where it stopped
  lit-cv fit --help                       all options
  lit-cv fit --model.help SupervisedModule
  lit-cv fit --data.help ImageFolderDataModule"""
