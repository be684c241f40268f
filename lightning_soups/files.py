"""Files and folders that are complete or absent at every instant, and on the disk before anything is built on them."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from upath import UPath

from lightning_soups.durable import exchange, make_folder, sync_file, sync_folder, sync_tree
from lightning_soups.leftovers import clean, heal, remove, temporary_name
from lightning_soups.paths import AnyPath, is_object_store
from lightning_soups.write_errors import explained, explained_upload

_BLOCK = 4096  # bytes, which a full disk has not
_cleaned: set[Path] = set()


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary local path; move it to ``path`` at once when the block ends without an error.

    On disks it is beside ``path``; its name starts with a dot and ends in ``.tmp``, so no reader takes it for a record
    or a checkpoint. The bytes are on disk before the name is, and the name before the block has ended (flush, fsync,
    rename, fsync of the folder). What goes to a URL is uploaded when it is complete.

    Args:
        path: The file to create or replace. Its folder is created.

    Raises:
        WriteError: It cannot be written: the disk is full, read-only or gone, or whatever else the system says.
    """
    with replacing_all(path) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(*paths: AnyPath) -> Iterator[list[Path]]:
    """Do so with files that belong together: when one of them cannot be written, all stay as they were.

    Args:
        paths: Files of one folder. The last one is what tells of the others: it is taken away first and put there last,
            so that it never tells of other files than those beside it.
    """
    with ExitStack() as stack:
        if not isinstance(paths[-1], Path):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            local = [folder / path.name for path in paths]
            yield local
            with explained_upload(paths[-1]):
                if len(paths) > 1:
                    paths[-1].unlink(missing_ok=True)
                for file, url in zip(local, paths, strict=True):
                    assert not isinstance(url, Path)
                    _upload(file, url)
            return
        own = [path for path in paths if isinstance(path, Path)]
        temporary = [path.with_name(temporary_name(path.name)) for path in own]
        stack.enter_context(explained(own[0], *temporary, *own))
        for file in temporary:
            stack.callback(remove, file)
        _prepare(own[-1].parent)
        yield temporary
        for file in temporary:
            sync_file(file)
        _put(temporary, own)
        sync_folder(own[-1].parent)


@contextmanager
def replacing_folder(path: AnyPath) -> Iterator[Path]:
    """Yield an empty temporary folder; it becomes ``path`` when the block ends without an error.

    On disks it is beside ``path``. It changes places with an existing one in one step where the system can do that, as
    Linux can on its own file systems. Elsewhere that one is renamed away first, so for an instant there may be none,
    but never a part of one; whoever dies in that instant leaves a folder that the next reader or writer puts back. At
    a URL its files appear one after the other, those at the top in alphabetical order and last; then what an earlier
    folder had more is deleted.

    Args:
        path: The folder to create or replace. The folder that it is in is created.

    Raises:
        WriteError: See :func:`replacing`.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            with explained_upload(path):
                _upload_folder(Path(folder), path)
        return
    temporary, old = (path.with_name(temporary_name(path.name, old)) for old in (False, True))
    with explained(path, temporary, old):
        _prepare(path.parent)
        heal(path)
        try:
            temporary.mkdir()
            yield temporary
            sync_tree(temporary)
            if not os.path.lexists(path):
                os.replace(temporary, path)
            elif not exchange(temporary, path):
                _make_way(temporary, path, old)
            sync_folder(path.parent)
        finally:
            remove(temporary)
            if os.path.lexists(path):  # else it is all there is
                remove(old)


def check_name(path: AnyPath, parameter: str) -> None:
    """Make sure that the system can have a path at all, before it is asked whether there is something.

    Args:
        path: A path or URL; of URLs nothing is known.
        parameter: What the user knows it as.

    Raises:
        ValueError: It cannot, because it is too long, for example.
    """
    if isinstance(path, Path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise ValueError(f"`{parameter}` cannot be {str(path)!r}: {error.strerror}.") from None


def check_writable(path: AnyPath, parameter: str) -> None:
    """Make sure that a file can be created, before work begins that ends in it. No folder is created.

    Whether there is room for all of it is not known before it is written; that there is none at all is noticed.

    Args:
        path: What is going to be written.
        parameter: What the user knows it as.

    Raises:
        ValueError: It cannot, and why.
    """
    try:
        if isinstance(path, Path):
            folder = next(folder for folder in path.absolute().parents if folder.exists())
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(_BLOCK))
                file.flush()
                os.fsync(file.fileno())
        else:
            trial = path.with_name(temporary_name(path.name))
            trial.write_bytes(b"")
            trial.unlink()
    except Exception as error:  # storage libraries raise errors of their own
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`{parameter}` cannot be written at {str(path)!r}: {reason}") from error


def _prepare(folder: Path) -> None:
    """Create a folder; what dead writers have left there is deleted, once a process."""
    make_folder(folder)
    if folder not in _cleaned:
        _cleaned.add(folder)
        clean(folder)


def _make_way(temporary: Path, path: Path, old: Path) -> None:
    """Replace a folder in two steps, or in none."""
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(old, path)
        raise


def _put(temporary: list[Path], paths: list[Path]) -> None:
    """Rename complete files to what they are to be called; when one of these fails, all are as they were."""
    *others, (new, last) = zip(temporary, paths, strict=True)
    spare: list[Path] = []
    with ExitStack() as undo:

        def keep(path: Path, how: Callable[[Path, Path], None]) -> None:
            spare.append(path.with_name(temporary_name(path.name)))
            how(path, spare[-1])
            undo.callback(_put_back, spare[-1], path)

        if others and last.exists():
            keep(last, os.replace)
        for file, path in others:
            if path.exists():
                with suppress(OSError):  # of file systems that have no second names for a file
                    keep(path, os.link)
            else:
                undo.callback(remove, path)
            os.replace(file, path)
        os.replace(new, last)
        undo.pop_all()
    for file in spare:
        remove(file)


def _put_back(kept: Path, path: Path) -> None:
    with suppress(OSError):
        os.replace(kept, path)
        kept.unlink(missing_ok=True)  # two names of one file stay both


def _upload(local: Path, url: UPath) -> None:
    fs = url.fs
    if is_object_store(url):  # an upload appears when it is complete, and renaming it would be another copy
        fs.put_file(str(local), url.path)
        return
    url.parent.mkdir(parents=True, exist_ok=True)
    temporary = url.with_name(temporary_name(url.name))
    try:
        fs.put_file(str(local), temporary.path)
        fs.mv(temporary.path, url.path)
    finally:
        temporary.unlink(missing_ok=True)


def _upload_folder(local: Path, url: UPath) -> None:
    fs = url.fs
    fs.invalidate_cache()
    before = set(fs.find(url.path)) if url.exists() else set()
    files = sorted((path for path in local.rglob("*") if path.is_file()), key=lambda path: (path.parent == local, path))
    uploaded = {file: url / file.relative_to(local).as_posix() for file in files}
    for file, target in uploaded.items():
        _upload(file, target)
    for surplus in before - {fs._strip_protocol(target.path) for target in uploaded.values()}:
        fs.rm_file(surplus)


def write_json(path: AnyPath, content: Any) -> None:
    """Write strict JSON atomically.

    Args:
        path: The file to create or replace.
        content: Dictionaries, lists, strings, finite numbers, booleans and None.

    Raises:
        ValueError: A number is NaN or infinite, which JSON does not have.
        WriteError: See :func:`replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(to_json(content), encoding="utf-8")


def to_json(content: Any) -> str:
    """Strict JSON as all our files have it; see :func:`write_json`."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def append_durably(path: Path, line: bytes) -> None:
    """Add a line to a file, so that it is on disk on return; a torn line that a dead writer left stays apart.

    Args:
        path: Is created, with its folder, when there is none.
        line: Ends in a line feed.
    """
    make_folder(path.parent)
    with path.open("ab+") as file:
        is_new = file.tell() == 0
        if not is_new:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)
