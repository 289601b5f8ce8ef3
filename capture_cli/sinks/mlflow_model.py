"""Log a trained model to a run in MLflow."""

import copy
import logging
import warnings
from typing import Any


def log_model(model: Any, example: Any, *, uri: str, experiment_id: str, run_id: str, torch: str) -> None:
    """Log a torch model with a signature, as a graph that torch.export traces: no pickle.

    `example` [B, ...] float32 is traced; the logged model takes any other B. `torch` is the version it needs.
    """
    import mlflow
    import mlflow.pytorch

    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # without pip it warns, which nobody asked for
    client = mlflow.MlflowClient(uri)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
    logged = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
    try:
        if before != uri:
            mlflow.set_tracking_uri(uri)
        with warnings.catch_warnings():  # torch 2.11 warns of what it does itself
            warnings.simplefilter("ignore")
            mlflow.pytorch.log_model(
                copy.deepcopy(model).cpu().eval(),
                name="model",
                model_id=logged.model_id,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch}" if torch else "torch"],
            )
    finally:
        if before != uri:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None takes it out of the environment
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step=0)])
