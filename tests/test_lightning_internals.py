"""The private names of others that the package relies on. A new Lightning or torch that changes them fails here first.

Every such name has a test that guards it (``tests/private_names.py`` finds them); a test that fails names the files.
"""

import ast
import inspect
import io
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import fsspec
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
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.trainer.trainer import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.data import _update_dataloader
from torch.distributed import checkpoint as distributed_checkpoint
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torchmetrics.classification import BinaryAccuracy

from lightning_soups import SoupTrainer
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.logged import logged_in_epoch
from lightning_soups.weights.formats.dcp_metadata import read_metadata
from tests.helpers import Blobs, Classifier, trainer
from tests.private_names import GUARDED, foreign_in, guards, private_names


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_every_private_name_is_guarded() -> None:
    unguarded = {name: files for name, files in private_names().items() if name not in GUARDED}
    assert not unguarded, (
        "These files of lightning_soups use private names of other packages (or define such a name in a class that"
        f" extends one of theirs which has it) that no test here guards with @guards: {unguarded}"
    )
    assert not GUARDED - private_names().keys(), "guarded, but nothing uses it any more"


def test_uses_of_private_names_are_found() -> None:
    """In every way that there is; what a file defines itself is its own."""
    code = """
import lib._a
from lib._b import thing
from lib import _c, public
class Child(_c):
    def _own(self):
        self._mine = super()._d(_e=1) or self._f
        return self._own() or self._mine or getattr(public, "_g") or "lib._h.thing" or "__dunder__" or "two words _i"
"""
    assert foreign_in(ast.parse(code)) == {"lib._a", "lib._b", "_c", "_d", "_e", "_f", "_g", "lib._h.thing"}


def test_a_guard_names_the_files() -> None:
    @guards("_results")
    def guarding() -> None:
        assert False  # noqa: B011, PT015

    with pytest.raises(AssertionError, match=r"_results: logged\.py"):
        guarding()


@guards(
    "_EvaluationLoop",
    "_combined_loader",
    "_data_source",
    "_evaluation_step",
    "_max_batches",
    "_mode",
    "_on_evaluation_end",
    "_on_evaluation_model_eval",
    "_on_evaluation_model_train",
    "_store_dataloader_outputs",
    "_trainer_fn",
)
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


@guards("_logger_connector")
def test_results_can_be_thrown_away() -> None:
    assert parameters(_LoggerConnector.reset_results) == ["self"]
    assert isinstance(Trainer(logger=False)._logger_connector, _LoggerConnector)


@guards(
    "_DataLoaderSource",
    "_accelerator_connector",
    "_data_connector",
    "_data_source",
    "_requires_distributed_sampler",
    "_update_dataloader",
)
def test_the_dataloader_source() -> None:
    assert parameters(data_connector._DataLoaderSource) == ["instance", "name"]
    assert parameters(_update_dataloader) == ["dataloader", "sampler", "mode"]
    assert {"is_defined", "dataloader"} <= set(vars(data_connector._DataLoaderSource))
    assert parameters(data_connector._DataConnector._requires_distributed_sampler) == ["self", "dataloader"]
    assert isinstance(Trainer(logger=False)._data_connector, data_connector._DataConnector)
    for attach in (data_connector._DataConnector.attach_dataloaders, data_connector._DataConnector.attach_datamodule):
        assert "trainer.fit_loop._data_source.instance = " in inspect.getsource(attach)  # whatever the trainer runs
    assert isinstance(Trainer(logger=False)._accelerator_connector.use_distributed_sampler, bool)
    assert Trainer(logger=False)._accelerator_connector.cluster_environment is not None  # interruption.py
    assert issubclass(
        distributed.UnrepeatedDistributedSampler, torch.utils.data.DistributedSampler
    )  # so Lightning leaves it alone
    assert issubclass(distributed.UnrepeatedDistributedSamplerWrapper, distributed.UnrepeatedDistributedSampler)


@guards("_update_count")
def test_what_torchmetrics_keeps_to_itself() -> None:
    accuracy = BinaryAccuracy()
    accuracy._update_count = 1
    accuracy.tp = torch.tensor(3)
    accuracy.fn = torch.tensor(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning that compute came before update
        assert accuracy.compute() == 0.75
        accuracy.update(torch.ones(1), torch.ones(1))
    assert accuracy._update_count == 2
    accuracy.reset()
    assert accuracy._update_count == 0


@guards("_BatchNorm", "_load_from_state_dict", "_load_state_dict_post_hooks", "_load_state_dict_pre_hooks", "_modules")
def test_what_modules_keep_to_themselves() -> None:
    layer = torch.nn.Linear(1, 1)
    assert not layer._load_state_dict_pre_hooks
    layer.register_load_state_dict_pre_hook(lambda *args: None)
    assert layer._load_state_dict_pre_hooks
    assert not layer._load_state_dict_post_hooks
    layer.register_load_state_dict_post_hook(lambda *args: None)
    assert layer._load_state_dict_post_hooks
    assert torch.nn.BatchNorm1d(1)._load_from_state_dict.__module__.startswith("torch.")
    assert "_load_from_state_dict(" in inspect.getsource(torch.nn.Module.load_state_dict)
    assert torch.nn.Sequential(layer)._modules == {"0": layer}
    for norm in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm):
        assert issubclass(norm, _BatchNorm)


@guards("_checkpoint_wrapped_module", "_extra_state", "_forward_module", "_fsdp_wrapped_module", "_orig_mod")
def test_what_state_dicts_call_wrapped_modules() -> None:
    from lightning.fabric.wrappers import _FabricModule
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import _common_utils

    class WithMore(torch.nn.Module):
        def get_extra_state(self) -> int:
            return 1

    layer = torch.nn.Linear(1, 1)
    assert torch.compile(layer)._modules == {"_orig_mod": layer}
    assert checkpoint_wrapper(layer)._modules == {"_checkpoint_wrapped_module": layer}
    assert _common_utils.FSDP_WRAPPED_MODULE == "_fsdp_wrapped_module"
    assert "self._forward_module = forward_module" in inspect.getsource(_FabricModule)
    assert WithMore().state_dict() == {"_extra_state": 1}


@guards("torch.utils._pytree")
def test_trees_of_tensors() -> None:
    leaves, spec = tree_flatten({"a": [torch.ones(1), "b"]})
    assert leaves[1] == "b"
    assert tree_unflatten([1, 2], spec) == {"a": [1, 2]}
    assert tree_map(str, {"a": (1, [2])}) == {"a": ("1", ["2"])}


@guards(
    "_MEM_FORMAT_ENCODING",
    "_StorageInfo",
    "_get_layout",
    "pathlib._local",
    "torch.distributed._shard.sharded_tensor.metadata",  # in files that torch wrote before 2.3
)
def test_what_the_metadata_of_distributed_checkpoints_is_made_of(tmp_path: Path) -> None:
    """The names are those of pickled classes: what torch writes now can be read without importing any of them."""
    assert hasattr(distributed_checkpoint.metadata, "_MEM_FORMAT_ENCODING")
    assert hasattr(distributed_checkpoint.filesystem, "_StorageInfo")
    assert hasattr(torch.serialization, "_get_layout")
    assert Path.__module__ == ("pathlib._local" if sys.version_info[:2] == (3, 13) else "pathlib")
    state = {"weight": torch.ones(2, 3), "half": torch.ones(2, dtype=torch.bfloat16), "step": 3}
    distributed_checkpoint.save(state, checkpoint_id=tmp_path / "saved")
    assert {stored.keys for stored in read_metadata(tmp_path / "saved")} == {("weight",), ("half",)}


@guards("_strip_protocol")
def test_what_remote_files_are_called() -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/guarded/one", b"1")
    names = ("memory://guarded/one", "/guarded/one")
    assert [files._strip_protocol(name) for name in names] == files.find("/guarded") * 2


@guards("_name_or_path")
def test_what_models_of_transformers_call_their_origin() -> None:
    from transformers import BertConfig

    assert BertConfig(name_or_path="someone/tiny")._name_or_path == "someone/tiny"


@guards("_checkpoint_connector")
def test_weights_only_checkpoints_can_be_dumped_and_saved() -> None:
    assert parameters(_CheckpointConnector.dump_checkpoint)[1:] == ["weights_only"]
    assert isinstance(Trainer(logger=False)._checkpoint_connector, _CheckpointConnector)
    assert parameters(Strategy.save_checkpoint)[1:3] == ["checkpoint", "filepath"]


@guards(
    "_add_arguments",
    "_add_subcommands",
    "_parse_ckpt_path",
    "_prepare_subcommand_kwargs",
    "_run_subcommand",
    "_set_seed",
    "_setup_parser_kwargs",
    "_subcommand_method_arguments",
    "_subcommand_parsers",
)
def test_the_cli_hooks() -> None:
    takes = {
        "_add_arguments": ["parser"],
        "_add_subcommands": ["parser", "kwargs"],
        "_parse_ckpt_path": [],
        "_prepare_subcommand_kwargs": ["subcommand"],
        "_run_subcommand": ["subcommand"],
        "_set_seed": [],
        "_setup_parser_kwargs": ["parser_kwargs"],
    }
    source = inspect.getsource(LightningCLI)
    for name, arguments in takes.items():
        assert parameters(getattr(LightningCLI, name)) == ["self", *arguments]
        assert f"self.{name}(" in source, f"Lightning does not call {name} any more"
    for name in ("_subcommand_parsers", "_subcommand_method_arguments", "save_config_kwargs", "save_config_callback"):
        assert f"self.{name}" in source
    assert {"trainer_class", "args", "run", "save_config_kwargs"} <= set(parameters(LightningCLI.__init__))


@guards("_MultiProcessingLauncher")
def test_which_launchers_start_processes_themselves() -> None:
    assert issubclass(launchers._MultiProcessingLauncher, launchers.launcher._Launcher)


@guards("_subcommands_action")
def test_the_parsers_subcommands() -> None:
    parser = ArgumentParser(exit_on_error=False)
    assert parser._subcommands_action is None
    subcommands = parser.add_subcommands()
    assert parser._subcommands_action is subcommands
    assert parameters(subcommands.add_subcommand)[:2] == ["name", "parser"]


@guards("_ResultCollection", "_ResultMetric", "_computed", "_forked_name", "_results")
def test_the_logged_results() -> None:
    """Values, modes, fresh or stale, as the callback and the evaluator read them."""
    seen: dict[str, object] = {}

    def job(loop: KeptLoop) -> None:
        assert isinstance(loop.trainer._results, _ResultCollection)
        assert all(isinstance(item, _ResultMetric) for item in loop.trainer._results.result_metrics)
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


@guards("_skip_validation")
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


@guards("_class_path", "_instantiator")
def test_what_cli_and_model_checkpoint_put_into_checkpoints(tmp_path: Path) -> None:
    assert "_class_path" in inspect.getsource(_InstantiatorFn)
    assert "_instantiator" in inspect.getsource(_given_hyperparameters_context)
    for cls, key in [(LightningModule, "hyper_parameters"), (LightningDataModule, "datamodule_hyper_parameters")]:
        assert key == cls.CHECKPOINT_HYPER_PARAMS_KEY
        assert cls.CHECKPOINT_HYPER_PARAMS_NAME
    best = ModelCheckpoint(tmp_path, "best", monitor="val_acc", mode="max")
    assert "'mode': 'max'" in best.state_key
    assert {"monitor", "best_k_models"} <= set(best.state_dict())


@guards("_log_model")
def test_what_loggers_are_told() -> None:
    """Stand-ins in ``trainer.loggers`` get what Lightning logs; ``-1`` makes loggers upload a checkpoint at once."""
    assert "in self.trainer.loggers" in inspect.getsource(_LoggerConnector.log_metrics)
    assert "isinstance(self.loggers[0], (TensorBoardLogger, CSVLogger))" in inspect.getsource(Trainer.log_dir.fget)
    assert DummyLogger().experiment.anything("at", all=True) is None
    for logger in (WandbLogger, MLFlowLogger):
        source = inspect.getsource(logger.after_save_checkpoint)
        assert "checkpoint_callback.save_top_k == -1" in source
        assert "self._log_model" in source


@guards("_Unpickler")
def test_pythons_own_unpickler_is_written_in_python() -> None:
    """The one in C puts memory aside for what a pickle declares."""
    assert inspect.isfunction(pickle._Unpickler.load)
    assert pickle._Unpickler.dispatch[pickle.BYTEARRAY8[0]]
    assert pickle._Unpickler(io.BytesIO(pickle.dumps([1, {"a": 2}]))).load() == [1, {"a": 2}]


@guards(
    "torch._tensor",
    "torch._utils",
    "_rebuild_from_type_v2",
    "_rebuild_qtensor",
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
)
def test_what_files_of_torch_name(tmp_path: Path) -> None:
    assert callable(torch._tensor._rebuild_from_type_v2)
    views = ("_rebuild_qtensor", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
    for name in views:
        start = parameters(getattr(torch._utils, name))[:4]
        assert start == ["storage", "storage_offset", "size", "stride"]
    new = set(filter(lambda name: name.startswith("_rebuild"), vars(torch._utils)))
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        assert b"torch._utils" in file.read("a/data.pkl")
        assert b"_rebuild_tensor_v2" in file.read("a/data.pkl")
    assert set(views) <= new


@guards("_backward_hooks", "_cdata")
def test_what_tensors_and_storages_keep() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not weight._backward_hooks
    weight.register_hook(lambda gradient: gradient)
    assert weight._backward_hooks
    storages = [one.untyped_storage()._cdata for one in (weight, weight.detach()[1:], torch.ones(2))]
    assert storages[0] == storages[1] != storages[2]


@guards("_exit")
def test_a_process_can_be_ended_from_any_thread() -> None:
    assert parameters(os._exit) == ["status"]
