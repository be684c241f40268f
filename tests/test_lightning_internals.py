"""The private names of Lightning that the package relies on. A new Lightning that changes them fails here first."""

import inspect
import warnings
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.utilities import _no_grad_context
from lightning.pytorch.overrides import distributed
from lightning.pytorch.strategies import Strategy, launchers
from lightning.pytorch.trainer.connectors import data_connector
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.trainer.trainer import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchmetrics.classification import BinaryAccuracy

from lightning_soups import SoupTrainer
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.logged import logged_in_epoch
from tests.helpers import Blobs, Classifier, trainer


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_evaluation_loop() -> None:
    assert parameters(_EvaluationLoop.__init__)[1:] == ["trainer", "trainer_fn", "stage", "verbose", "inference_mode"]
    assert parameters(_EvaluationLoop._evaluation_step)[1] == "batch"
    source = inspect.getsource(_EvaluationLoop)
    names = ("_combined_loader", "_max_batches", "_data_source", "_store_dataloader_outputs", "_on_evaluation_end")
    names += ("_on_evaluation_epoch_end", "_on_evaluation_model_train", "_on_evaluation_model_eval", "setup_data")
    names += ("reset", "on_run_end")
    for name in names:
        assert f"self.{name}" in source
    run = inspect.getsource(_EvaluationLoop.on_run_start)
    assert run.index("_on_evaluation_model_eval()") < run.index("_on_evaluation_epoch_start()")
    assert "data_fetcher.setup(combined_loader)" in inspect.getsource(_EvaluationLoop.reset)
    assert "except StopIteration:" in source
    assert "epoch_end_reached()" in inspect.getsource(_EvaluationLoop.on_run_end)
    for stage, loop in (("validate", Trainer(logger=False).validate_loop), ("test", Trainer(logger=False).test_loop)):
        assert (loop._trainer_fn, loop._stage) == (TrainerFn(stage), RunningStage(stage))
    assert "self.inference_mode" in inspect.getsource(_no_grad_context)  # gradients need it off for one pass
    assert CombinedLoader([[1]], "sequential")._mode == "sequential"
    assert "evaluating" in inspect.getsource(Trainer._run_stage)


def test_the_dataloader_source() -> None:
    assert parameters(data_connector._DataLoaderSource) == ["instance", "name"]
    assert parameters(_update_dataloader) == ["dataloader", "sampler", "mode"]
    assert hasattr(data_connector._DataConnector, "_requires_distributed_sampler")
    for attach in (data_connector._DataConnector.attach_dataloaders, data_connector._DataConnector.attach_datamodule):
        assert "trainer.fit_loop._data_source.instance = " in inspect.getsource(attach)  # whatever the trainer runs
    assert isinstance(Trainer(logger=False)._accelerator_connector.use_distributed_sampler, bool)
    assert Trainer(logger=False)._accelerator_connector.cluster_environment is not None  # interruption.py
    assert issubclass(
        distributed.UnrepeatedDistributedSampler, torch.utils.data.DistributedSampler
    )  # so Lightning leaves it alone
    assert issubclass(distributed.UnrepeatedDistributedSamplerWrapper, distributed.UnrepeatedDistributedSampler)


def test_what_torchmetrics_and_torch_keep_to_themselves() -> None:
    accuracy = BinaryAccuracy()
    accuracy._update_count = 1
    accuracy.tp = torch.tensor(3)
    accuracy.fn = torch.tensor(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning that compute came before update
        assert accuracy.compute() == 0.75
    layer = torch.nn.Linear(1, 1)
    assert not layer._load_state_dict_pre_hooks
    layer.register_load_state_dict_pre_hook(lambda *args: None)
    assert layer._load_state_dict_pre_hooks
    assert not layer._load_state_dict_post_hooks
    assert torch.nn.BatchNorm1d(1)._load_from_state_dict.__module__.startswith("torch.")
    leaves, spec = tree_flatten({"a": [torch.ones(1), "b"]})
    assert leaves[1] == "b"
    assert tree_unflatten([1, 2], spec) == {"a": [1, 2]}


def test_weights_only_checkpoints_can_be_dumped_and_saved() -> None:
    assert parameters(_CheckpointConnector.dump_checkpoint)[1:] == ["weights_only"]
    assert parameters(Strategy.save_checkpoint)[1:3] == ["checkpoint", "filepath"]


def test_the_cli_hooks() -> None:
    names = ("_add_subcommands", "_add_arguments", "_run_subcommand", "_prepare_subcommand_kwargs")
    for name in (*names, "_set_seed", "_setup_parser_kwargs"):
        assert callable(getattr(LightningCLI, name))
    source = inspect.getsource(LightningCLI)
    for name in ("_subcommand_parsers", "_subcommand_method_arguments", "save_config_kwargs", "save_config_callback"):
        assert f"self.{name}" in source
    assert {"trainer_class", "args", "run", "save_config_kwargs"} <= set(parameters(LightningCLI.__init__))
    assert launchers._MultiProcessingLauncher


def test_the_logged_results() -> None:
    """Values, modes, fresh or stale, as the callback and the evaluator read them."""
    seen: dict[str, object] = {}

    def job(loop: KeptLoop) -> None:
        assert isinstance(loop.trainer._results, _ResultCollection)
        seen["before"] = logged_in_epoch(loop.trainer)
        seen["logged"] = loop.one_pass()
        seen["after"] = logged_in_epoch(loop.trainer)
        seen["callback_metrics"] = dict(loop.trainer.callback_metrics)
        seen["cost"] = (loop.batches, loop.samples, loop.samples_in_pass)

    validating = trainer(SoupTrainer)
    validating.validate_loop = KeptLoop(validating, job, "auto")
    validating.validate(Classifier(), datamodule=Blobs(), verbose=False)
    assert seen["before"] == seen["after"] == {}
    assert {name: value.mode for name, value in seen["logged"].items()} == {"val_acc": "max", "val_loss": None}
    for name, value in seen["logged"].items():
        assert value.value == pytest.approx(seen["callback_metrics"][name].item(), rel=1e-6)
    assert seen["cost"] == (4, 101, 101)


def test_the_parser_can_skip_validation() -> None:
    """What is required may be missing in a first look at the arguments; defaults can be set by key, or are refused."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--needed", type=int, required=True)
    assert parser.parse_args([], _skip_validation=True).get("needed") is None
    assert parser.parse_object({}, _skip_validation=True).get("needed") is None
    parser.set_defaults({"needed": 3})
    assert parser.parse_args([]).needed == 3
    with pytest.raises(KeyError):
        parser.set_defaults({"unheard": 3})


def test_what_cli_and_model_checkpoint_put_into_checkpoints(tmp_path: Path) -> None:
    assert "_class_path" in inspect.getsource(_InstantiatorFn)
    assert "_instantiator" in inspect.getsource(_given_hyperparameters_context)
    for cls, key in [(LightningModule, "hyper_parameters"), (LightningDataModule, "datamodule_hyper_parameters")]:
        assert key == cls.CHECKPOINT_HYPER_PARAMS_KEY
        assert cls.CHECKPOINT_HYPER_PARAMS_NAME
    best = ModelCheckpoint(tmp_path, "best", monitor="val_acc", mode="max")
    assert "'mode': 'max'" in best.state_key
    assert {"monitor", "best_k_models"} <= set(best.state_dict())


def test_what_loggers_are_told() -> None:
    """Stand-ins in ``trainer.loggers`` get what Lightning logs; ``-1`` makes loggers upload a checkpoint at once."""
    assert "in self.trainer.loggers" in inspect.getsource(_LoggerConnector.log_metrics)
    assert "isinstance(self.loggers[0], (TensorBoardLogger, CSVLogger))" in inspect.getsource(Trainer.log_dir.fget)
    assert DummyLogger().experiment.anything("at", all=True) is None
    for logger in (WandbLogger, MLFlowLogger):
        source = inspect.getsource(logger.after_save_checkpoint)
        assert "checkpoint_callback.save_top_k == -1" in source
        assert "self._log_model" in source
