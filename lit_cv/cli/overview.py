"""The text of `lit-cv --help`, built without heavy imports."""

from lit_cv.running.recipes import recipe_table

__all__ = ["VERBS", "overview"]

VERBS = {
    "fit": "train a model",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
    "predict": "write a checkpoint's predictions to predictions.csv",
    "find-lr": "train briefly at increasing learning rates, plot the loss and suggest one",
    "knn": "evaluate a checkpoint's features by a k-nearest-neighbor classifier",
    "convert": "convert annotations from one format to another",
    "agreement": "measure how well several annotators agree",
    "kfold": "cross-validate: train and evaluate a fresh model for each fold",
    "compare": "compare learning approaches over numbers of labels",
    "curves": "draw the training curves of several runs into one figure",
    "export": "write a checkpoint as torch and ONNX programs and as safetensors",
    "push": "upload a checkpoint and its model card to the Hugging Face Hub",
    "recipes": "list the shipped configurations",
}


def overview() -> str:
    """Return the help text of the program."""
    verbs = "\n".join(f"  {verb:<10}{purpose}" for verb, purpose in VERBS.items())
    return f"""usage: lit-cv VERB [options]

Learning approaches for computer vision.

verbs:
{verbs}

options of every verb:
  --trust MODULE  import your own module (`--trust my_callbacks`), so that a checkpoint or a configuration may name its
                  classes; without it, they may only name classes of lit_cv and Lightning

recipes (for --config):
{recipe_table(indent="  ")}

examples:
  lit-cv fit --config supervised
  lit-cv fit --config supervised --data ImageFolderDataModule --data.root photos --model.backbone resnet18
  lit-cv find-lr --config supervised
  lit-cv test --ckpt_path best
  lit-cv kfold --config supervised --folds 5
  lit-cv compare                          compare approaches on handwritten digits, in a few minutes
  lit-cv fit --ckpt_path last             continue the newest run where it stopped
  lit-cv fit --help                       all options
  lit-cv fit --model.help SupervisedModule
  lit-cv fit --data.help ImageFolderDataModule"""
