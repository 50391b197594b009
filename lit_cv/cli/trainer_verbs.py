"""The verbs that a Trainer runs: `fit`, `validate`, `test`, `predict`, `find-lr` and `knn`."""

import logging

from lit_cv.cli import remedies  # noqa: F401 - imported now: an out-of-memory error may leave no memory to import it
from lit_cv.cli.predict import predict_arguments, starts_from_weights
from lit_cv.running.arguments import prepare_run
from lit_cv.running.find_lr import FindLRCLI
from lit_cv.running.invocation import invocation
from lit_cv.running.training import LitCLI

__all__ = ["run"]

log = logging.getLogger("lit_cv")


def run(args: list[str]) -> LitCLI | None:
    """Run one of these verbs.

    Args:
        args: The verb and its options, as typed; `find-lr` takes the options of `fit`, `knn` those of `validate`.
    """
    with invocation(args):
        if (
            args[0] not in ("fit", "find-lr")
            and "--ckpt_path" not in " ".join(args)
            and not {"-h", "--help"} & set(args)
        ):
            weights = starts_from_weights(args)
            subject = (
                "the weights of --model.weights; layers missing in them are random" if weights else "an untrained model"
            )
            log.warning("No --ckpt_path was given: evaluating %s.", subject)
        if args[0] == "predict":
            replaced = predict_arguments(args)
            if replaced is None:
                return None
            args = replaced
        if args[0] == "find-lr":
            return FindLRCLI(*prepare_run(["fit", *args[1:]]))
        knn = args[0] == "knn"
        return LitCLI(*prepare_run(["validate", *args[1:]] if knn else args), evaluate_embedding=knn)
