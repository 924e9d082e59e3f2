"""One connection to a store's SQLite file: how it is opened, locked, checkpointed, and how its errors are told."""

import errno
import json
import os
import shlex
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from rhapsode.errors import StateError, UserError
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.store.schema import MIGRATIONS, check_version, migrate, schema_version
from rhapsode.memory.store.sweep import RawFile
from rhapsode.runfolder import sync_folder

FILE_NAME = "memory.db"
DAMAGED_NAME = f"{FILE_NAME}.damaged"
"""What a recovery puts aside; it may hold rows that were forgotten."""
FULL_BYTES = 1 << 16
"""A disk with less than this is full: SQLite tells some writes that found no room as failures of the device."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def recovery_command(folder: Path) -> str:
    """Return the command that copies what can be read out of the damaged database in `folder`."""
    return f"rhapsode memory {shlex.quote(str(folder.parent))} rebuild --recover"


def free_bytes(folder: Path) -> int:
    """Return how much may still be written to the disk of `folder`."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def put_aside(folder: Path) -> list[Path]:
    """Return the files of a damaged database that a recovery kept."""
    return sorted(folder.glob(f"{DAMAGED_NAME}*"))


class Database:
    """A SQLite file in WAL mode; may be used from several threads, one at a time."""

    def __init__(self, folder: Path, config: StoreConfig, *, read_only: bool = False, create: bool = True) -> None:
        """Open or create the store in `folder`. See `SQLiteStore.open` for what is raised."""
        self.folder = folder
        self.path = folder / FILE_NAME
        self.wal = folder / f"{FILE_NAME}-wal"
        self.config = config
        self.read_only = read_only
        self.lock = threading.RLock()
        self._depth = 0
        self._writing = False
        self.is_open = False
        self._raw: RawFile | None = None
        self._prepare_folder(create and not read_only)
        with self.errors():
            self.connection = self._connect_read_only() if read_only else self._connect_writable()
        self.is_open = True
        try:
            with self.errors():
                self._begin_using()
        except BaseException:
            self.close()
            raise

    def _prepare_folder(self, create: bool) -> None:
        if not create and not self.path.exists():
            raise UserError(
                f"memory must name a folder with a store; got {self.folder}, which has no {FILE_NAME}. "
                "Teach something first."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._full(error.strerror) from None
            raise StateError(f"{self.folder} must be writable; got: {error.strerror}. Choose another folder.") from None

    def _connect_writable(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._create()
        if not self.path.stat().st_size:
            # a new store appears whole, so this one has lost what it held; SQLite would begin again at id 1.
            raise self._damaged("an empty file")
        # a descriptor is needed before the connection, so that closing it can never drop SQLite's locks.
        self._raw = RawFile(self.path)
        return connect(self.path, self.config)

    def _create(self) -> None:
        """Make a whole store under another name, and let it appear unless another process was faster."""
        descriptor, name = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=self.folder)
        os.close(descriptor)
        new = Path(name)
        try:
            new.chmod(0o644)
            with closing(connect(new, self.config)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                migrate(connection)
                connection.execute("COMMIT")
            with suppress(FileExistsError):
                os.link(new, self.path)
        finally:
            for left in self.folder.glob(f"{new.name}*"):
                left.unlink()
        sync_folder(self.folder)

    def _connect_read_only(self) -> sqlite3.Connection:
        if not self.path.stat().st_size:
            raise self._damaged("an empty file")
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            schema_version(connection)
            return connection
        except sqlite3.OperationalError:
            connection.close()
        except BaseException:
            connection.close()
            raise
        # a WAL database cannot be read where its shared memory cannot be made; without a log it is a plain file.
        if self.wal.exists() and self.wal.stat().st_size:
            raise StateError(
                f"{self.folder} must be writable once, to move its write-ahead log into the database; got a read-only "
                "folder. Copy it to a writable place."
            )
        return sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None, check_same_thread=False)

    def _begin_using(self) -> None:
        check_version(self.connection, self.path)
        if self.read_only:
            if schema_version(self.connection) < len(MIGRATIONS):
                raise StateError(f"{self.path} must be opened once for writing, to bring its tables up to date.")
            return
        if schema_version(self.connection) < len(MIGRATIONS):
            with self.transaction():
                # another process may have done it while this one waited.
                check_version(self.connection, self.path)
                migrate(self.connection)

    @property
    def raw(self) -> RawFile:
        """The file under the connection."""
        assert self._raw is not None, "a read-only store has no raw file"
        return self._raw

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Tell SQLite's errors in the user's words.

        Raises:
            StateError: for a damaged file, a full disk, a read-only folder, and a lock that is held for too long.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            # SQLite has no checksums: a page that is damaged may still look like one.
            raise self._damaged(error) from error
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._full(error.strerror) from error
            raise StateError(f"{self.folder} must be readable and writable; got: {error.strerror}.") from error

    def _damaged(self, why: object) -> StateError:
        return StateError(
            f"{self.path} must be an intact database; got: {why}. Recover what can be read with: "
            f"{recovery_command(self.folder)}"
        )

    def _full(self, why: object) -> StateError:
        return StateError(f"{self.folder} must be on a disk with free space; got: {why}. Nothing was changed.")

    def _explain(self, error: sqlite3.Error) -> StateError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return self._damaged(error)
        if name.startswith("SQLITE_FULL"):
            return self._full(error)
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and free_bytes(self.folder) < FULL_BYTES:
            return self._full(error)
        if name.startswith("SQLITE_BUSY"):
            return StateError(f"{self.path} must be free within {self.config.busy_timeout_s:g} s; got: {error}.")
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return StateError(f"{self.folder} must be writable; got: {error}. Choose another folder.")
        return StateError(f"{self.path} must be usable; got: {error or type(error).__name__} {name}.")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock; commit at the end, or roll back on any error. May be nested."""
        with self.lock, self.errors():
            if self.read_only:
                raise UserError("memory must be opened for writing to be changed; got read_only=True.")
            # a snapshot cannot take the write lock safely: another process may have written since it began.
            assert self._depth == 0 or self._writing, "a transaction inside a snapshot"
            self._writing = True
            try:
                with self._begin("BEGIN IMMEDIATE") as connection:
                    yield connection
            finally:
                self._writing = self._depth > 0

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """See one state of the store, whatever others write meanwhile. May be nested."""
        with self.lock, self.errors(), self._begin("BEGIN") as connection:
            yield connection

    @contextmanager
    def _begin(self, statement: str) -> Iterator[sqlite3.Connection]:
        if self._depth == 0:
            self.connection.execute(statement)
        self._depth += 1
        try:
            yield self.connection
            if self._depth == 1:
                self.connection.execute("COMMIT")
        except BaseException:
            if self._depth == 1 and self.connection.in_transaction:
                # some errors have rolled back already.
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    def close(self) -> None:
        """Close the connection, and only then the file under it."""
        with self.lock:
            if self.is_open:
                self.is_open = False
                self.connection.close()
            if self._raw is not None:
                self._raw.close()
                self._raw = None


def connect(path: Path, config: StoreConfig, busy_timeout_s: float | None = None) -> sqlite3.Connection:
    """Open a connection for writing, with every setting that durability and erasure rest on."""
    timeout = config.busy_timeout_s if busy_timeout_s is None else busy_timeout_s
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {config.checkpoint_pages}")
        connection.execute(f"PRAGMA cache_size = -{config.cache_mb * 1024}")
    except BaseException:
        connection.close()
        raise
    return connection
