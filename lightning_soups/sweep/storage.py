"""Where a sweep keeps its state: an SQLite file, a journal file on a shared disk, or a database server."""

import random
import time
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from lightning_soups.paths import AnyPath

_JOURNALS = (".journal", ".log")
_DATABASE = "sweep.db"
_WAIT = 60  # seconds that a worker waits for another's write to the same SQLite file
_ATTEMPTS = 10


def open_storage(storage: str | None, dirpath: AnyPath) -> BaseStorage:
    """Open what a sweep's workers share; it is created if it is not there.

    Args:
        storage: A file that ends in ``.journal`` or ``.log``, or a database URL of SQLAlchemy's; None is the SQLite
            file ``sweep.db`` in ``dirpath``.
        dirpath: The soup directory.

    Raises:
        ValueError: It is neither, cannot be reached, or its driver is not installed; passwords are not quoted.
    """
    if storage is None:
        assert isinstance(dirpath, Path)
        return _open_database(f"sqlite:///{(dirpath / _DATABASE).absolute()}", storage, dirpath)
    if "://" in storage:
        return _open_database(storage, storage, dirpath)
    path = Path(storage).absolute()
    if path.suffix not in _JOURNALS:
        raise ValueError(
            f"`storage` must be a file that ends in {' or '.join(_JOURNALS)}, or a database URL such as"
            f" 'postgresql://user@host/sweeps', got {storage!r}. Leave it out for an SQLite file in the soup directory."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # an exclusive open is atomic on local disks and on NFS since version 3, and needs no symbolic links
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def show_storage(storage: str | None, dirpath: AnyPath) -> str:
    """Name a storage in a message, without its password."""
    if storage is None:
        return str(dirpath / _DATABASE)
    try:
        return make_url(storage).render_as_string(hide_password=True) if "://" in storage else storage
    except (SQLAlchemyError, ValueError):
        return storage.partition("://")[0] + "://…"


def _open_database(url: str, storage: str | None, dirpath: AnyPath) -> BaseStorage:
    sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {"connect_args": {"timeout": _WAIT}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(_ATTEMPTS):
        try:
            database = RDBStorage(url, engine_kwargs=options)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            if attempt + 1 < _ATTEMPTS and _others_create_tables(error):
                time.sleep(random.random() / 2)
                continue
            reason = getattr(error, "orig", None) or error.__cause__ or error
            raise ValueError(f"`storage` {show_storage(storage, dirpath)!r} cannot be opened: {reason}") from error
        if sqlite:
            _serialize(database.engine)
        return database
    raise AssertionError("every attempt returns or raises")


def _others_create_tables(error: Exception) -> bool:
    """Whether several workers are creating the tables of a new database at the same moment."""
    return isinstance(error, (IntegrityError, ProgrammingError)) or "already exists" in str(error)


def _serialize(engine: Engine) -> None:
    """Let every transaction lock an SQLite file from its beginning.

    Python's driver begins one only at the first write, so two workers could read the same state and both act on it
    (https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable).
    """

    @event.listens_for(engine, "connect")
    def leave_transactions_alone(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def lock(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before
